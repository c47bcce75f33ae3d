export const onQueued = {
  onQueued(session, message) {
    // Observes: nothing can be answered. The message is durable.
  },
};
