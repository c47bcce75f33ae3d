//! A policy for Gatepost. What each hook sees and may answer stands in `vendor/wit/hooks.wit`.

use gatepost_sdk::prelude::*;

#[derive(Default)]
struct MyPolicy;

// It takes no `[plugin.config]`. One that does implements `Policy` instead, with a type for its keys.
impl Unconfigured for MyPolicy {}

{{hooks}}
gatepost_sdk::export!(MyPolicy: {{exports}});
