export const onData = {
  onData(session) {
    // May reject, defer, disconnect, accept or tag. Refusing here spares the transfer.
    return pass();
  },
};
