//! Explores the models.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use millrace_model::explore::{Explored, Outcome, explore};
use millrace_model::seal::{Rule, Rules, SealModel};

/// Looks at every state that the protocols can come to.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// The end of an epoch over three zones. Status 0: every promise holds in every state; 1: one does not; 2: there
    /// are more states than were asked for.
    Seal {
        /// Leave a rule out; may be given more than once.
        #[arg(long, value_name = "RULE", value_parser = rule)]
        drop: Vec<Rule>,
        /// Ask for what must never happen only, and not whether the newest owner comes through.
        #[arg(long)]
        safety_only: bool,
        /// No zone is replaced.
        #[arg(long)]
        no_replacement: bool,
        /// Give up after so many states: each takes some 200 bytes.
        #[arg(long, default_value_t = 50_000_000)]
        states_max: usize,
    },
    /// The rules that may be left out.
    Rules,
}

fn rule(name: &str) -> Result<Rule, String> {
    let found = Rule::ALL.iter().copied().find(|rule| rule.name() == name);
    found.ok_or_else(|| "there is no such rule; `millrace-model rules` tells them".to_owned())
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Rules => {
            Rule::ALL
                .iter()
                .for_each(|rule| println!("{:24} {}", rule.name(), rule.says()));
            ExitCode::SUCCESS
        }
        Command::Seal {
            drop,
            safety_only,
            no_replacement,
            states_max,
        } => {
            let rules = Rules::without(&drop);
            let model = SealModel {
                rules,
                progress: !safety_only,
                replacement: !no_replacement,
            };
            let Explored {
                states,
                depth,
                outcome,
            } = explore(&model, states_max);
            match outcome {
                Outcome::Holds => {
                    println!("all promises hold in all {states} states; the farthest is {depth} steps away");
                    ExitCode::SUCCESS
                }
                Outcome::Broken(counterexample) => {
                    println!("{counterexample}");
                    println!("found as state {states}");
                    ExitCode::from(1)
                }
                Outcome::TooMany => {
                    println!("no end after {states} states, {depth} steps away; nothing is wrong so far");
                    ExitCode::from(2)
                }
            }
        }
    }
}
