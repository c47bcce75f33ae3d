export const onQueued: typeof import("gatepost:policy/on-queued@0.1.0") = {
  onQueued(session, message) {
    // Observes: nothing can be answered. The message is durable.
  },
};
