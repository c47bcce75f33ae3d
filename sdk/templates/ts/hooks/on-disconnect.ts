export const onDisconnect: typeof import("gatepost:policy/on-disconnect@0.1.0") = {
  onDisconnect(session) {
    // Observes: nothing can be answered. Session notes are there for the last time.
  },
};
