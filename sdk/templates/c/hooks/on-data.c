void exports_on_data_on_data(types_borrow_session_t session, types_answer_t *ret) {
    gatepost_begin();
    // May reject, defer, disconnect, accept or tag. Refusing here spares the transfer.
    *ret = gatepost_pass();
}
