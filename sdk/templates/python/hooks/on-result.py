class OnResult(exports.OnResult):
    def on_result(self, session, event) -> None:
        # Observes: nothing can be answered. A command was refused, or AUTH was answered.
        pass
