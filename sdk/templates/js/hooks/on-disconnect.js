export const onDisconnect = {
  onDisconnect(session) {
    // Observes: nothing can be answered. Session notes are there for the last time.
  },
};
