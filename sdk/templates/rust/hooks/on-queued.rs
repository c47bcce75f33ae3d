impl OnQueued for MyPolicy {
    fn on_queued(&self, _session: &Session, _message: &gatepost_sdk::queue::QueuedMessage) {
        // Observes: nothing can be answered. The message is durable.
    }
}
