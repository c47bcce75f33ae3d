export const onMessage = {
  onMessage(session, message) {
    // May reject, defer, discard, accept, edit, quarantine, route, sign or tag. Looking into the message needs the grant `read-message`.
    return pass();
  },
};
