//! The figures of one run, and of the runs before it: one line each of `docs/img/scale.csv`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::Outcome;

#[derive(Debug)]
pub struct Run {
    pub accounts: usize,
    figures: BTreeMap<String, f64>,
}

impl Run {
    pub fn new(accounts: usize) -> Self {
        Self { accounts, figures: BTreeMap::new() }
    }

    /// A figure's name ends with its unit; without one it is a ratio.
    pub fn set(&mut self, name: &str, value: f64) {
        self.figures.insert(name.into(), value);
    }

    pub fn get(&self, name: &str) -> Option<f64> {
        self.figures.get(name).copied()
    }

    /// Lines of `NAME VALUE`.
    pub fn read(&mut self, lines: &str) -> Outcome<()> {
        for line in lines.lines() {
            let (name, value) = line.split_once(' ').ok_or("a line without a value")?;
            self.set(name, value.parse()?);
        }
        Ok(())
    }

    pub fn print(&self) {
        for (name, value) in &self.figures {
            let unit = match name.rsplit_once('_') {
                Some((rest, "s")) if rest.ends_with("_per") => "accounts/s",
                Some((_, unit @ ("s" | "ms" | "us"))) => unit,
                Some((_, "mib")) => "MiB",
                Some((_, "kib")) => "KiB",
                _ => "times",
            };
            println!("figure: scale_{}_{name} = {value:.3} {unit}", self.accounts);
        }
    }

    /// Takes the place of an earlier run with as many accounts.
    pub fn keep(self) -> Outcome<()> {
        let mut runs = kept()?;
        runs.insert(self.accounts, self);
        let names: std::collections::BTreeSet<&String> = runs.values().flat_map(|run| run.figures.keys()).collect();
        let head = std::iter::once("accounts".to_owned()).chain(names.iter().map(ToString::to_string));
        let mut lines = vec![head.collect::<Vec<_>>().join(",")];
        for run in runs.values() {
            let values = names.iter().map(|name| run.get(name).map_or_else(String::new, |value| format!("{value:.4}")));
            lines.push(std::iter::once(run.accounts.to_string()).chain(values).collect::<Vec<_>>().join(","));
        }
        std::fs::create_dir_all(path(""))?;
        Ok(std::fs::write(path("scale.csv"), lines.join("\n") + "\n")?)
    }
}

/// All runs that are kept, by their numbers of accounts.
pub fn kept() -> Outcome<BTreeMap<usize, Run>> {
    let path = path("scale.csv");
    if !path.exists() {
        return Ok(BTreeMap::new());
    }
    let text = std::fs::read_to_string(path)?;
    let mut lines = text.lines().map(|line| line.split(','));
    let names: Vec<&str> = lines.next().ok_or("an empty table")?.skip(1).collect();
    let mut runs = BTreeMap::new();
    for mut line in lines {
        let mut run = Run::new(line.next().unwrap_or_default().parse()?);
        for (name, value) in names.iter().zip(line).filter(|(_, value)| !value.is_empty()) {
            run.set(name, value.parse()?);
        }
        runs.insert(run.accounts, run);
    }
    Ok(runs)
}

pub fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/img").join(name)
}
