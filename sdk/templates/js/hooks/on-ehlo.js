export const onEhlo = {
  onEhlo(session, name) {
    // May reject, defer, disconnect, accept, delay, or withdraw an extension.
    return pass();
  },
};
