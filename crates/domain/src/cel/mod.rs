//! CEL expressions (`when`), within limits: none may exhaust stack, time or memory.

mod check;
mod event;
mod scan;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, LazyLock};

use cel::common::value::CowVal;
use cel::context::VariableResolver;
use cel::{Context, Env, ExecutionError, IdedExpr, Value};
use regex::Regex;

pub use event::CelEvent;

use crate::definition::Position;

/// Longest expression, in bytes.
pub const MAX_BYTES: usize = 2_048;
/// Deepest nesting of brackets.
const MAX_NESTING: usize = 16;
/// Most `a ? b : c`: each nests the parser as a bracket does.
const MAX_TERNARIES: usize = 16;
/// The parser takes some 100 KB of stack per bracket in a debug build.
const COMPILE_STACK: usize = 16 << 20;
/// Steps an evaluation's loops may take, as estimated before it begins.
const MAX_LOOP_WORK: usize = 500_000;
/// Longest reason given, in characters: errors may quote whole values.
const MAX_REASON_CHARS: usize = 200;

static ENV: LazyLock<Arc<Env>> =
    LazyLock::new(|| Arc::new(Env::stdlib().with_optional_support(false)));

/// A compiled expression over `event`.
#[derive(Debug)]
pub struct CelRule {
    expression: IdedExpr,
    loops: Vec<Loop>,
    /// Called as the functions `@matches0`, `@matches1`, …
    patterns: Vec<Arc<Regex>>,
}

/// What is known before evaluation of one `all`, `exists`, … of an expression.
#[derive(Debug)]
struct Loop {
    /// What it goes through; evaluated first to learn its size.
    range: IdedExpr,
    /// Operations per element.
    operations: usize,
    /// How often its body refers to `event` itself.
    outer: usize,
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

/// Compiles an expression, or says what is wrong with it.
///
/// `event` is the only variable: `eventType`, `eventName` (absent when there is none), `userId`,
/// `gameId`, `eventId`, `timestamp` (RFC 3339 text, UTC, milliseconds), `metadata` (an empty map
/// when there is none), and the event's other top-level fields. Whole JSON numbers are `int`,
/// others `double`, so `10.5 * 2` needs `2.0`.
pub fn compile(text: &str) -> Result<CelRule, CelFault> {
    scan::scan(text)?;
    // Nothing may look at an expression on a stack of unknown size before it is known to be harmless.
    let compiled = std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("cel-compile".to_owned())
            .stack_size(COMPILE_STACK)
            .spawn_scoped(scope, || compile_here(text))
            .map(std::thread::ScopedJoinHandle::join)
    });
    match compiled {
        Ok(Ok(compiled)) => compiled,
        Ok(Err(_panic)) => Err(CelFault::at_char(text, 0, "cannot be compiled")),
        Err(e) => Err(CelFault::at_char(
            text,
            0,
            format!("cannot be compiled now: no thread: {e}"),
        )),
    }
}

fn compile_here(text: &str) -> Result<CelRule, CelFault> {
    let (expression, source) = ENV
        .parser()
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
        let mut work = 0usize;
        for each in &self.loops {
            let elements = size(&each.range, &context).map_err(|e| e.to_string())?;
            let touched = each.outer * each.outer * elements * event.weight();
            work = work
                .saturating_add(each.operations * (elements + event.weight()))
                .saturating_add(touched);
        }
        if work > MAX_LOOP_WORK {
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

/// How many elements `range` has; 0 for what cannot be gone through (evaluation will say so).
fn size(range: &IdedExpr, context: &Context<'_, '_>) -> Result<usize, ExecutionError> {
    let value = Value::resolve_val(range, context)?;
    let size = value.as_ref().as_sizer().map_or(0, |s| *s.size().inner());
    Ok(usize::try_from(size).unwrap_or(0))
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
mod tests;
