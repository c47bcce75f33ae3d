export const onResult: typeof import("gatepost:policy/on-result@0.1.0") = {
  onResult(session, event) {
    // Observes: nothing can be answered. A command was refused, or AUTH was answered.
  },
};
