export const onEhlo: typeof import("gatepost:policy/on-ehlo@0.1.0") = {
  onEhlo(session, name) {
    // May reject, defer, disconnect, accept, delay, or withdraw an extension.
    return pass();
  },
};
