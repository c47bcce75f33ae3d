//! `gatepost plugin check`: what a component is, what it needs, and whether the relay would take it.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow};

use super::plugin::read_component;
use super::text::{Paint, printable, size};
use crate::config::Grant;
use crate::policy::inspection::{self, Given, Inspection, Trial};
use crate::policy::{Compiler, Engine};

/// Say what a component is, and whether the relay would take it
///
/// No relay is needed. It is loaded as the relay would load it, with the grants that its imports need, and each of its
/// hooks is called in a world where nothing exists; what its answers there need is added. Exit status 1 if the relay would refuse it.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The component
    file: PathBuf,
    /// A grant besides those that its imports and its answers here need: for what other answers may hold. Once for each
    #[arg(long, value_name = "GRANT", value_parser = grant)]
    grant: Vec<Grant>,
    /// The name of an endpoint that [plugin.endpoints] will have, for one that does not load without it. Once for each
    #[arg(long, value_name = "NAME")]
    endpoint: Vec<String>,
    /// A TOML file with what would stand in [plugin.config]
    #[arg(long, value_name = "FILE")]
    settings: Option<PathBuf>,
}

fn grant(text: &str) -> Result<Grant, String> {
    let found = Grant::ALL.into_iter().find(|grant| grant.to_string() == text);
    found.ok_or_else(|| {
        format!(
            "the grants are {}",
            Grant::ALL.map(|grant| grant.to_string()).join(", ")
        )
    })
}

pub fn check(args: &Args) -> anyhow::Result<()> {
    let config = match &args.settings {
        None => toml::Table::new(),
        Some(path) => {
            let name = || path.display().to_string();
            let text = fs::read_to_string(path).with_context(name)?;
            text.parse().with_context(name)?
        }
    };
    let given = Given {
        config,
        grants: &args.grant,
        endpoints: &args.endpoint,
    };
    let found = inspect(&args.file, &args.file, given)?;
    super::print(&summary(&found, &args.grant, Paint::stdout()))?;
    refused(&args.file, &found)
}

/// The verdict on the component in `half`, which is going to be in `file`, in one line, without settings and further grants. Fails if the relay would refuse
/// it whatever its settings are.
pub fn verdict(half: &Path, file: &Path) -> anyhow::Result<String> {
    let found = inspect(half, file, Given::default())?;
    let paint = Paint::stdout();
    let said = match &found.verdict {
        Err(error) if found.refuses_its_configuration() => format!(
            "{} {}; `gatepost plugin check --settings FILE {}` tries it with what will stand in [plugin.config], `--endpoint NAME` with an endpoint",
            paint.yellow("without settings the relay would refuse it:"),
            printable(error),
            file.display()
        ),
        _ => {
            refused(file, &found)?;
            accepted(&found, &[], paint)
        }
    };
    Ok(format!("{}, {said}", size(found.bytes as u64)))
}

/// Looks at what is in `read`, as if it were in `file`.
fn inspect(read: &Path, file: &Path, given: Given<'_>) -> anyhow::Result<Inspection> {
    let component = read_component(read)?.into();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let engine = Engine::new(Compiler::of_commands()).map_err(|error| anyhow!("the WebAssembly engine: {error:#}"))?;
    runtime
        .block_on(inspection::inspect(&engine, file, component, given))
        .map_err(|error| anyhow!("{}: the relay would refuse it: {error}", file.display()))
}

fn refused(file: &Path, found: &Inspection) -> anyhow::Result<()> {
    match &found.verdict {
        Ok(_) => Ok(()),
        Err(error) => Err(anyhow!(
            "{}: the relay would refuse it: {}",
            file.display(),
            printable(error)
        )),
    }
}

/// `the relay would load it with grants = ["dns"]`, and which hooks failed all the same.
fn accepted(found: &Inspection, more_grants: &[Grant], paint: Paint) -> String {
    let mut grants: Vec<Grant> = found.grants.iter().chain(more_grants).copied().collect();
    grants.sort();
    grants.dedup();
    let grants: Vec<String> = grants.iter().map(|grant| format!("\"{grant}\"")).collect();
    let verdict = paint.green("the relay would load it");
    let calls = found.verdict.iter().flat_map(|trial| &trial.calls);
    let failed: String = calls
        .filter_map(|call| {
            let failure = call.failure.as_ref()?.lines().next().unwrap_or_default();
            let failed = format!("but {} failed in the trial:", call.stage);
            Some(format!(", {} {}", paint.red(&failed), printable(failure)))
        })
        .collect();
    format!("{verdict} with grants = [{}]{failed}", grants.join(", "))
}

fn summary(found: &Inspection, more_grants: &[Grant], paint: Paint) -> String {
    let mut text = String::new();
    let list = |items: &mut dyn Iterator<Item = String>| {
        let items: Vec<String> = items.map(|item| printable(&item)).collect();
        if items.is_empty() {
            "none".to_owned()
        } else {
            items.join(", ")
        }
    };
    let imports = found.imports.iter().filter(|(_, functions)| !functions.is_empty());
    let mut imports = imports.map(|(interface, functions)| match interface.as_str() {
        // The names of its resources say where they are.
        "types" | "messages" | "login" => functions.join(", "),
        _ => functions
            .iter()
            .map(|function| format!("{interface}.{function}"))
            .collect::<Vec<_>>()
            .join(", "),
    });
    let rows = [
        (
            "size",
            match found.compiled_in {
                Some(time) => format!("{}, compiled in {}", size(found.bytes as u64), took(time)),
                None => format!("{}, compiled before", size(found.bytes as u64)),
            },
        ),
        ("interface", list(&mut found.packages.iter().cloned())),
        ("exports", list(&mut found.hooks.iter().cloned())),
        ("imports", list(&mut imports)),
        ("grants", list(&mut found.grants.iter().map(ToString::to_string))),
    ];
    // Writing into a String cannot fail.
    for (name, value) in rows {
        let _ = writeln!(text, "{name:<10} {value}");
    }
    if let Ok(trial) = &found.verdict {
        show_trial(&mut text, trial, paint);
        let _ = writeln!(text, "verdict    {}", accepted(found, more_grants, paint));
    }
    text
}

fn show_trial(text: &mut String, trial: &Trial, paint: Paint) {
    let memory = trial.memory_bytes.map(|bytes| size(bytes as u64));
    let memory = memory.unwrap_or_else(|| "unknown".to_owned());
    let _ = writeln!(
        text,
        "memory     {memory} in an instance that was started; started in {}",
        took(trial.start_time)
    );
    for call in &trial.calls {
        let times = format!("{} cold, {} warm", took(call.cold), took(call.warm));
        let said = call.said.first().map_or("", String::as_str);
        let said = printable(said.split_once(": ").map_or(said, |(_, said)| said));
        let said = if call.failure.is_some() { paint.red(&said) } else { said };
        let _ = writeln!(text, "{:<13} {said}  {}", call.stage.name(), paint.dim(&times));
        for line in call.said.iter().skip(1) {
            let _ = writeln!(text, "             {}", printable(line));
        }
    }
}

/// Three digits are enough for people.
fn took(time: Duration) -> String {
    match time.as_micros() {
        micros @ 0..10_000 => format!("{micros} us"),
        micros => format!("{} ms", micros / 1_000),
    }
}
