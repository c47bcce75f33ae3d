export const onMail = {
  onMail(session, sender) {
    // May reject, defer, disconnect, accept, rewrite the sender, delay or tag.
    return pass();
  },
};
