void exports_on_rcpt_on_rcpt(types_borrow_session_t session, types_borrow_mailbox_t recipient, types_relay_view_t *relay, types_answer_t *ret) {
    gatepost_begin();
    // May reject, defer, discard, accept, allow relaying, rewrite or add recipients, route, delay or tag:
    // *ret = gatepost_reject(550, "5.1.1", "No such user");
    *ret = gatepost_pass();
}
