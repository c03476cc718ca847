//! `brightmatter doctor`: tries everything that is needed, says what is wrong and what to do.

mod checks;

use std::fmt;
use std::future::Future;
use std::process::ExitCode;
use std::time::Duration;

use bm_bootstrap::Context;

use crate::error::CliError;
use crate::output;

/// No check takes longer; they run at once, those of the broker one after the other.
const LIMIT: Duration = Duration::from_secs(4);

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Found {
    /// All is well; what was seen.
    Fine(String),
    /// It works, and somebody should look at it.
    Odd(Advice),
    /// It does not work, and nothing is lost without it but what the advice says.
    Lacking(Advice),
    /// Nothing works without it.
    Broken(Advice),
}

/// What is wrong, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Advice {
    wrong: String,
    act: String,
}

impl Advice {
    fn new(wrong: impl fmt::Display, act: impl Into<String>) -> Self {
        Self {
            wrong: wrong.to_string(),
            act: act.into(),
        }
    }
}

/// A check's line.
struct Line {
    name: &'static str,
    found: Found,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (verdict, advice) = match &self.found {
            Found::Fine(seen) => {
                return write!(f, "ok      {:10} {}", self.name, output::plain(seen));
            }
            Found::Odd(advice) => ("odd", advice),
            Found::Lacking(advice) => ("away", advice),
            Found::Broken(advice) => ("FAILED", advice),
        };
        let wrong = output::plain(&advice.wrong);
        write!(f, "{verdict:7} {:10} {wrong}", self.name)?;
        if let Found::Lacking(_) = self.found {
            write!(f, " (reported, not required)")?;
        }
        for act in advice.act.lines() {
            write!(f, "\n{:18} -> {act}", "")?;
        }
        Ok(())
    }
}

/// Tries everything; the exit code is non-zero when something required does not work.
pub(crate) async fn run(ctx: &Context) -> Result<ExitCode, CliError> {
    // A wrong address must be told as such, and not as a wait that was too long.
    let vars = ctx.vars.with([("BM_DB_TIMEOUT", "2s")]);
    let (bus, database, redis, studios) = tokio::join!(
        checks::bus(&vars),
        checks::database(&vars),
        checks::redis(&vars),
        checks::studios(&vars, &ctx.clock),
    );
    let lines: Vec<Line> = bus
        .into_iter()
        .chain(database)
        .chain([redis, studios])
        .collect();
    for line in &lines {
        output::line(line)?;
    }
    let broken = |line: &&Line| matches!(line.found, Found::Broken(_));
    let broken = lines.iter().filter(broken).count();
    Ok(if broken == 0 {
        ExitCode::SUCCESS
    } else {
        output::line(format_args!(
            "\n{broken} of {} checks failed that nothing works without",
            lines.len()
        ))?;
        ExitCode::FAILURE
    })
}

/// Runs a check that may hang.
async fn within(name: &'static str, check: impl Future<Output = Found>, act: &str) -> Line {
    let found = tokio::time::timeout(LIMIT, check).await;
    Line {
        name,
        found: found.unwrap_or_else(|_elapsed| {
            Found::Broken(Advice::new(format_args!("no answer within {LIMIT:?}"), act))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_is_wrong_and_what_to_do() {
        let line = Line {
            name: "redis",
            found: Found::Lacking(Advice::new("refused\u{1b}", "start it\nor unset REDIS_URL")),
        };
        assert_eq!(
            line.to_string(),
            "away    redis      refused\\u{1b} (reported, not required)\n                   -> start it\n                   -> or unset REDIS_URL"
        );
        let line = Line {
            name: "topics",
            found: Found::Fine("13 as wanted".to_owned()),
        };
        assert_eq!(line.to_string(), "ok      topics     13 as wanted");
    }

    #[tokio::test]
    async fn a_check_that_hangs_is_cut_short() {
        tokio::time::timeout(LIMIT * 2, async {
            let line = within("x", std::future::pending(), "look").await;
            assert!(matches!(line.found, Found::Broken(_)));
        })
        .await
        .unwrap();
    }
}
