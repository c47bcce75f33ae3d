//! The WebAssembly engine that all plugins share: its settings, its clock of CPU time, its compiler, and the bound on live instances.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use wasmtime::{Config, Enabled, InstanceAllocationStrategy, PoolingAllocationConfig};

use super::compile::{Compiler, Native};

/// One tick of the epoch clock, the unit in which a guest's CPU time is counted.
pub const TICK: Duration = Duration::from_millis(5);
/// Instances alive at the same time, all plugins together. Each takes about 6 GiB of address space (not memory).
pub const LIVE_INSTANCES_MAX: usize = 1_000;
/// The most that `memory_mib` of a plugin may be, in bytes: the size of a slot in the pool.
pub const MEMORY_BYTES_MAX: usize = 512 << 20;
/// Core instances, memories and tables of one component; one from Python has 14 core instances.
const PARTS_PER_INSTANCE: u32 = 16;
/// What a component and its core modules may take for their own bookkeeping; the default of 1 MiB is too small for JavaScript.
const INSTANCE_BYTES_MAX: usize = 10 << 20;
const TABLE_ELEMENTS_MAX: usize = 100_000;
/// Memory that a slot keeps for its next instance instead of giving it back to the system.
const KEEP_RESIDENT_BYTES: usize = 256 << 10;
/// Guest stack; recursion beyond it traps.
const WASM_STACK_BYTES: usize = 512 << 10;
/// Stack of a fiber: the guest's and what host functions need on top.
const FIBER_STACK_BYTES: usize = 1 << 20;

/// The engine. Cheap to clone.
#[derive(Clone)]
pub struct Engine {
    wasm: wasmtime::Engine,
    compiler: Arc<Compiler>,
    pub(super) live: Arc<Semaphore>,
    /// Whether instances come from the pool; without it (too little address space) they cost about ten times as much.
    pooled: bool,
}

impl Engine {
    /// Builds the engine and starts its clock. Falls back to plain allocation where the address space is too small for a pool.
    pub fn new(compiler: Compiler) -> wasmtime::Result<Engine> {
        let (wasm, pooled) = match wasmtime::Engine::new(&config(true)) {
            Ok(engine) => (engine, true),
            Err(_) => (wasmtime::Engine::new(&config(false))?, false),
        };
        let ticking = wasm.weak();
        // The one ticker of the engine. It ends with the engine.
        std::thread::Builder::new()
            .name("epoch".into())
            .spawn(move || {
                while let Some(engine) = ticking.upgrade() {
                    engine.increment_epoch();
                    drop(engine);
                    std::thread::sleep(TICK);
                }
            })
            .map_err(wasmtime::Error::new)?;
        Ok(Engine {
            wasm,
            compiler: Arc::new(compiler),
            live: Arc::new(Semaphore::new(LIVE_INSTANCES_MAX)),
            pooled,
        })
    }

    pub(super) fn wasm(&self) -> &wasmtime::Engine {
        &self.wasm
    }

    pub fn is_pooled(&self) -> bool {
        self.pooled
    }

    /// The component of these bytes. The error is for people.
    pub(super) async fn compile(&self, component: Arc<[u8]>) -> Result<Native, String> {
        self.compiler.compile(&self.wasm, component).await
    }
}

/// An engine whose code runs in any [`Engine`], and that reserves nothing for instances.
pub(super) fn for_compiling() -> wasmtime::Result<wasmtime::Engine> {
    wasmtime::Engine::new(&config(false))
}

fn config(pooled: bool) -> Config {
    let mut config = Config::new();
    config
        .epoch_interruption(true)
        .memory_init_cow(true)
        .cranelift_nan_canonicalization(true)
        .max_wasm_stack(WASM_STACK_BYTES)
        .async_stack_size(FIBER_STACK_BYTES)
        .wasm_component_model(true)
        .wasm_memory64(false);
    if pooled {
        let instances = LIVE_INSTANCES_MAX as u32;
        let mut pool = PoolingAllocationConfig::new();
        pool.total_component_instances(instances)
            .total_core_instances(instances * PARTS_PER_INSTANCE)
            .total_memories(instances)
            .total_tables(instances * 2)
            .total_stacks(instances)
            .max_component_instance_size(INSTANCE_BYTES_MAX)
            .max_core_instance_size(INSTANCE_BYTES_MAX)
            .max_core_instances_per_component(PARTS_PER_INSTANCE)
            .max_memories_per_component(PARTS_PER_INSTANCE)
            .max_tables_per_component(PARTS_PER_INSTANCE)
            .table_elements(TABLE_ELEMENTS_MAX)
            .max_memory_size(MEMORY_BYTES_MAX)
            .linear_memory_keep_resident(KEEP_RESIDENT_BYTES)
            .table_keep_resident(KEEP_RESIDENT_BYTES)
            .pagemap_scan(Enabled::Auto);
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    }
    config
}
