export const onData: typeof import("gatepost:policy/on-data@0.1.0") = {
  onData(session) {
    // May reject, defer, disconnect, accept or tag. Refusing here spares the transfer.
    return pass();
  },
};
