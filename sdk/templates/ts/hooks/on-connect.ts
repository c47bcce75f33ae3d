export const onConnect: typeof import("gatepost:policy/on-connect@0.1.0") = {
  onConnect(session) {
    // May reject, defer, disconnect, accept or delay. The client waits for the banner.
    return pass();
  },
};
