export const onDelivery = {
  onDelivery(session, message, outcome) {
    // May name the seconds until the next attempt after a temporary failure. undefined leaves the schedule.
    return undefined;
  },
};
