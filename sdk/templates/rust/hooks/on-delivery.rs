impl OnDelivery for MyPolicy {
    fn on_delivery(&self, _session: &Session, _message: &gatepost_sdk::queue::QueuedMessage, _outcome: &gatepost_sdk::queue::AttemptResult) -> Option<u32> {
        // May name the seconds until the next attempt after a temporary failure. None leaves the schedule.
        None
    }
}
