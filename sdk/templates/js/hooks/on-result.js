export const onResult = {
  onResult(session, event) {
    // Observes: nothing can be answered. A command was refused, or AUTH was answered.
  },
};
