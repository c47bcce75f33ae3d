export const onConnect = {
  onConnect(session) {
    // May reject, defer, disconnect, accept or delay. The client waits for the banner.
    return pass();
  },
};
