void exports_on_mail_on_mail(types_borrow_session_t session, types_borrow_mailbox_t sender, types_answer_t *ret) {
    gatepost_begin();
    // May reject, defer, disconnect, accept, rewrite the sender, delay or tag.
    *ret = gatepost_pass();
}
