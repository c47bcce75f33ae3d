export const onMail: typeof import("gatepost:policy/on-mail@0.1.0") = {
  onMail(session, sender) {
    // May reject, defer, disconnect, accept, rewrite the sender, delay or tag.
    return pass();
  },
};
