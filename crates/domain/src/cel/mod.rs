//! CEL expressions (`when`), within limits: none may exhaust stack, time or memory.

mod check;
mod cost;
mod event;
mod scan;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, LazyLock};

use cel::common::value::CowVal;
use cel::context::VariableResolver;
use cel::{Context, Env, IdedExpr, Value};
use regex::Regex;

pub use event::CelEvent;

use crate::definition::Position;

/// Longest expression, in bytes.
pub const MAX_BYTES: usize = 2_048;
/// Deepest nesting of brackets.
const MAX_NESTING: usize = 16;
/// Most `a ? b : c`: each nests the parser as a bracket does.
const MAX_TERNARIES: usize = 16;
/// The parser's own limit, which counts brackets and conditionals alike: a second fence.
const MAX_PARSER_DEPTH: u16 = (MAX_NESTING + MAX_TERNARIES) as u16;
/// The parser takes some 200 KB of stack per bracket in a debug build.
const COMPILE_STACK: usize = 64 << 20;
/// Work an evaluation may be, in copies of a value, as estimated before it begins. The worst
/// expressions found within it (four patterns without a short cut) take 11 ms in a release build on
/// an idle machine, 240 ms in a debug build; see the test that no expression takes long.
const MAX_WORK: usize = 500_000;
/// Longest reason given, in characters: errors may quote whole values.
const MAX_REASON_CHARS: usize = 200;

static ENV: LazyLock<Arc<Env>> =
    LazyLock::new(|| Arc::new(Env::stdlib().with_optional_support(false)));

/// A compiled expression over `event`.
#[derive(Debug)]
pub struct CelRule {
    expression: IdedExpr,
    cost: cost::Cost,
    /// Called as the functions `@matches0`, `@matches1`, …
    patterns: Vec<Arc<Regex>>,
}

/// Why an expression is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{position}: {message}")]
pub struct CelFault {
    /// What is wrong.
    pub message: String,
    /// Where in the expression.
    pub position: Position,
}

impl CelFault {
    fn at_char(text: &str, at: usize, message: impl Into<String>) -> Self {
        let before = text.chars().take(at);
        let (line, column) = before.fold((1, 1), |(line, column), c| match c {
            '\n' => (line + 1, 1),
            _ => (line, column + 1),
        });
        Self {
            message: message.into(),
            position: Position { line, column },
        }
    }

    fn at_byte(text: &str, at: usize, message: impl Into<String>) -> Self {
        let chars = text.char_indices().take_while(|(i, _)| *i < at).count();
        Self::at_char(text, chars, message)
    }
}

/// Compiles expressions; to be had from [`with_compiler`] alone, so whoever holds one is on a stack
/// that the parser cannot exhaust.
#[derive(Debug)]
pub struct Compiler(());

/// There is no thread to compile expressions on: the same may succeed later.
#[derive(Debug, thiserror::Error)]
#[error("no thread to compile expressions on: {0}")]
pub struct NoCompiler(std::io::Error);

/// Does `work` on one thread whose stack is large enough for the parser.
///
/// Nothing may look at an expression on a stack of unknown size before it is known to be harmless.
pub fn with_compiler<T: Send>(work: impl FnOnce(&Compiler) -> T + Send) -> Result<T, NoCompiler> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("cel-compile".to_owned())
            .stack_size(COMPILE_STACK)
            .spawn_scoped(scope, || work(&Compiler(())))
            .map_err(NoCompiler)?;
        Ok(thread.join().unwrap_or_else(|panic| resume_unwind(panic)))
    })
}

impl Compiler {
    /// Compiles an expression, or says what is wrong with it.
    ///
    /// `event` is the only variable: `eventType`, `eventName` (absent when there is none), `userId`,
    /// `gameId`, `eventId`, `timestamp` (RFC 3339 text, UTC, milliseconds), `metadata` (an empty map
    /// when there is none), and the event's other top-level fields. Whole JSON numbers are `int`,
    /// others `double`, so `10.5 * 2` needs `2.0`. Comments and backticks are refused.
    pub fn compile(&self, text: &str) -> Result<CelRule, CelFault> {
        scan::scan(text)?;
        catch_unwind(|| parsed(text))
            .unwrap_or_else(|_panic| Err(CelFault::at_char(text, 0, "cannot be compiled")))
    }
}

fn parsed(text: &str) -> Result<CelRule, CelFault> {
    let (expression, source) = ENV
        .parser()
        .max_recursion_depth(MAX_PARSER_DEPTH)
        .parse_with_source_info(text)
        .map_err(|errors| {
            let first = errors.errors.into_iter().next();
            first.map_or_else(
                || CelFault::at_char(text, 0, "cannot be read"),
                |error| CelFault {
                    message: error.msg,
                    position: Position {
                        line: usize::try_from(error.pos.0).unwrap_or(1).max(1),
                        column: usize::try_from(error.pos.1).unwrap_or(1).max(1),
                    },
                },
            )
        })?;
    check::check(text, expression, &source)
}

impl CelRule {
    /// Whether the expression is true of `event`; `Err` with the reason when that cannot be said.
    pub fn evaluate(&self, event: &CelEvent) -> Result<bool, String> {
        // A panic inside the interpreter must not stop the lane at this record for ever.
        let result = catch_unwind(AssertUnwindSafe(|| self.evaluate_here(event)))
            .unwrap_or_else(|_| Err("the interpreter failed".to_owned()));
        result.map_err(shortened)
    }

    fn evaluate_here(&self, event: &CelEvent) -> Result<bool, String> {
        let variables = EventVariable(event);
        let mut context = Context::with_env(Arc::clone(&ENV));
        context.set_variable_resolver(&variables);
        for (index, pattern) in self.patterns.iter().enumerate() {
            let pattern = Arc::clone(pattern);
            context
                .add_function(&matches_name(index), move |text: Arc<String>| {
                    pattern.is_match(&text)
                })
                .map_err(|e| e.to_string())?;
        }
        if self.cost.exceeds(MAX_WORK, event.weight(), &context) {
            return Err("it would take too long on an event of this size".to_owned());
        }
        match Value::resolve(&self.expression, &context) {
            Ok(Value::Bool(result)) => Ok(result),
            Ok(other) => Err(format!(
                "the result is not a boolean but {:?}",
                other.type_of()
            )),
            Err(e) => Err(e.to_string()),
        }
    }
}

/// The function that stands for the n-th `matches` with its pattern; no expression can spell it.
fn matches_name(index: usize) -> String {
    format!("@matches{index}")
}

fn shortened(text: String) -> String {
    match text.char_indices().nth(MAX_REASON_CHARS) {
        None => text,
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

struct EventVariable<'a>(&'a CelEvent);

impl VariableResolver for EventVariable<'_> {
    fn resolve<'b>(&'b self, variable: &str) -> Option<CowVal<'b, 'b>> {
        (variable == "event").then(|| CowVal::Borrowed(self.0.value()))
    }
}

#[cfg(test)]
mod limit_tests;
#[cfg(test)]
mod tests;
