void exports_on_result_on_result(types_borrow_session_t session, exports_on_result_command_result_t *event) {
    gatepost_begin();
    // Observes: nothing can be answered. A command was refused, or AUTH was answered.
}
