void exports_on_message_on_message(types_borrow_session_t session, messages_borrow_message_t message, types_answer_t *ret) {
    gatepost_begin();
    // May reject, defer, discard, accept, edit, quarantine, route, sign or tag. Looking into the message needs the grant `read-message`.
    *ret = gatepost_pass();
}
