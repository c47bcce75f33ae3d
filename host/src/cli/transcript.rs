//! `gatepost plugin test`: whether a component answers as its transcripts say, without a relay.

use std::fmt::Write;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};

use super::plugin::read_component;
use super::text::{Paint, printable, printable_lines};
use crate::policy::plugin::Compiled;
use crate::policy::transcript::{self, Report, Transcript};
use crate::policy::{Compiler, Engine};

/// Ask a component what transcripts say, and compare its answers
///
/// No relay is needed. The component goes through what the daemon does when it loads it, and is then asked in the scripted
/// sessions, with instances pooled and fresh. Exit status 1 if an answer is another than the transcript expects.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The component
    file: PathBuf,
    /// What it is asked, and what it has to answer: see sdk/README.md
    #[arg(required = true)]
    transcripts: Vec<PathBuf>,
    /// Write what it answers into the transcripts, in the place of what they expect
    #[arg(long)]
    update: bool,
}

pub fn test(args: &Args) -> anyhow::Result<()> {
    let component = read_component(&args.file)?.into();
    let transcripts = args.transcripts.iter().map(|path| Ok((path, read(path)?)));
    let transcripts = transcripts.collect::<anyhow::Result<Vec<_>>>()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let engine = Engine::new(Compiler::of_commands()).map_err(|error| anyhow!("the WebAssembly engine: {error:#}"))?;
    let shown = args.file.display();
    let compiled = runtime
        .block_on(Compiled::new(&engine, component))
        .map_err(|error| anyhow!("{shown}: {error}"))?;
    let mut failed = 0;
    for (path, transcript) in &transcripts {
        let asked = transcript::run(&engine, &args.file, &compiled, transcript);
        let report = runtime
            .block_on(asked)
            .map_err(|error| anyhow!("{}: {shown}: {error}", path.display()))?;
        if args.update {
            update(path, &report)?;
        } else {
            failed += usize::from(!report.differences.is_empty());
            super::print(&summary(path, &report, Paint::stdout()))?;
        }
    }
    match failed {
        0 => Ok(()),
        failed => bail!("{failed} of {} transcripts failed", transcripts.len()),
    }
}

/// Writes down what was said, if it was the same with pooled and fresh instances.
fn update(path: &Path, report: &Report) -> anyhow::Result<()> {
    if let Some(difference) = report.unlike() {
        let difference = difference.to_string();
        bail!(
            "{}: with fresh instances it answers otherwise than with pooled ones, so it keeps something in its memory: {}",
            path.display(),
            printable_lines(&difference).trim_end()
        );
    }
    let what = match report.differences.is_empty() {
        true => "as it was",
        false => {
            fs::write(path, &report.updated).with_context(|| path.display().to_string())?;
            "updated"
        }
    };
    super::print(&format!("{}: {what}, {} calls\n", path.display(), report.calls))
}

fn read(path: &Path) -> anyhow::Result<Transcript> {
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(transcript::BYTES_MAX).read_to_string(&mut text))
        .with_context(|| path.display().to_string())?;
    Transcript::parse(&text).map_err(|error| anyhow!("{}:{}: {}", path.display(), error.line, error.what))
}

fn summary(path: &Path, report: &Report, paint: Paint) -> String {
    let mut text = String::new();
    let path = path.display();
    let verdict = match report.differences.is_empty() {
        true => "ok".to_owned(),
        false => paint.red("FAILED"),
    };
    // Writing into a String cannot fail.
    let _ = writeln!(text, "{path}: {verdict}, {} calls", report.calls);
    for difference in &report.differences {
        for line in difference.to_string().lines() {
            let line = printable(line);
            let line = match line.get(..4) {
                Some("  - ") => paint.red(&line),
                Some("  + ") => paint.green(&line),
                _ => line,
            };
            let _ = writeln!(text, "{line}");
        }
    }
    if !report.unasked.is_empty() {
        let hooks: Vec<&str> = report.unasked.iter().map(|stage| stage.name()).collect();
        let _ = writeln!(text, "{} never asked: {}", paint.yellow("warning:"), hooks.join(", "));
    }
    text
}
