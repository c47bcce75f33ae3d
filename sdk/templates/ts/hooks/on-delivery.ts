export const onDelivery: typeof import("gatepost:policy/on-delivery@0.1.0") = {
  onDelivery(session, message, outcome) {
    // May name the seconds until the next attempt after a temporary failure. undefined leaves the schedule.
    return undefined;
  },
};
