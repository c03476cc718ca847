//! What an expression that can be parsed may still not do, found in its syntax tree.

use std::sync::Arc;

use cel::IdedExpr;
use cel::common::ast::{
    CallExpr, ComprehensionExpr, EntryExpr, Expr, LiteralValue, SourceInfo, operators,
};
use regex::{Regex, RegexBuilder};

use super::{CelFault, CelRule, Loop, matches_name};

/// Deepest syntax tree: evaluation recurses, on stacks of 2 MiB.
const MAX_TREE_DEPTH: usize = 40;
/// Most `all`, `exists`, … in one expression.
const MAX_LOOPS: usize = 4;
/// Most elements of a list or map literal.
const MAX_LITERAL: usize = 256;
/// Most `+`: each copies lists and texts.
const MAX_ADDITIONS: usize = 16;
/// Most `matches`.
const MAX_PATTERNS: usize = 4;
/// Longest pattern, in bytes.
const MAX_PATTERN_BYTES: usize = 256;
/// Largest compiled pattern, in bytes.
const MAX_PATTERN_PROGRAM: usize = 128 << 10;

const OPERATORS: [&str; 17] = [
    operators::CONDITIONAL,
    operators::LOGICAL_AND,
    operators::LOGICAL_OR,
    operators::LOGICAL_NOT,
    operators::SUBSTRACT,
    operators::ADD,
    operators::MULTIPLY,
    operators::DIVIDE,
    operators::MODULO,
    operators::EQUALS,
    operators::NOT_EQUALS,
    operators::GREATER_EQUALS,
    operators::LESS_EQUALS,
    operators::GREATER,
    operators::LESS,
    operators::NEGATE,
    operators::INDEX,
];
const CONVERSIONS: [&str; 5] = ["int", "double", "string", "bool", "type"];
const MEMBER_FUNCTIONS: [&str; 5] = ["size", "contains", "startsWith", "endsWith", "matches"];
const TYPES: [&str; 9] = [
    "bool",
    "int",
    "uint",
    "double",
    "string",
    "bytes",
    "list",
    "map",
    "null_type",
];

/// Checks the tree and makes it a rule.
pub(super) fn check(
    text: &str,
    mut expression: IdedExpr,
    source: &SourceInfo,
) -> Result<CelRule, CelFault> {
    let mut checker = Checker {
        text,
        source,
        variables: Vec::new(),
        inside: None,
        loops: Vec::new(),
        patterns: Vec::new(),
        additions: 0,
    };
    checker.visit(&mut expression, 0, false)?;
    Ok(CelRule {
        expression,
        loops: checker.loops,
        patterns: checker.patterns.into_iter().map(Arc::new).collect(),
    })
}

struct Checker<'a> {
    text: &'a str,
    source: &'a SourceInfo,
    /// Names a loop has bound.
    variables: Vec<String>,
    /// The loop whose body is being looked at.
    inside: Option<Body>,
    loops: Vec<Loop>,
    patterns: Vec<Regex>,
    additions: usize,
}

#[derive(Default)]
struct Body {
    operations: usize,
    outer: usize,
    patterns: usize,
}

impl Checker<'_> {
    fn fault(&self, node: u64, message: impl Into<String>) -> CelFault {
        let at = self.source.offset_for(node).map_or(0, |(start, _)| start);
        CelFault::at_char(self.text, at as usize, message)
    }

    /// `unordered`: whether what surrounds the node does not care for the order of a list's elements.
    fn visit(
        &mut self,
        node: &mut IdedExpr,
        depth: usize,
        unordered: bool,
    ) -> Result<(), CelFault> {
        if depth > MAX_TREE_DEPTH {
            return Err(self.fault(
                node.id,
                format!("has more than {MAX_TREE_DEPTH} operations inside one another"),
            ));
        }
        if let Some(body) = &mut self.inside {
            body.operations += 1;
        }
        let id = node.id;
        match &mut node.expr {
            Expr::Unspecified => Err(self.fault(id, "cannot be read")),
            Expr::Literal(_) => Ok(()),
            Expr::Ident(name) => self.ident(id, name),
            Expr::Select(select) => self.visit(&mut select.operand, depth + 1, false),
            Expr::Struct(_) => Err(self.fault(id, "must not make messages")),
            Expr::List(list) => {
                if list.elements.len() > MAX_LITERAL {
                    return Err(self.fault(id, too_many("elements in a list", MAX_LITERAL)));
                }
                list.elements
                    .iter_mut()
                    .try_for_each(|element| self.visit(element, depth + 1, false))
            }
            Expr::Map(map) => {
                if map.entries.len() > MAX_LITERAL {
                    return Err(self.fault(id, too_many("entries in a map", MAX_LITERAL)));
                }
                for entry in &mut map.entries {
                    let EntryExpr::MapEntry(entry) = &mut entry.expr else {
                        return Err(self.fault(id, "must not make messages"));
                    };
                    self.visit(&mut entry.key, depth + 1, false)?;
                    self.visit(&mut entry.value, depth + 1, false)?;
                }
                Ok(())
            }
            Expr::Call(call) => self.call(id, call, depth),
            Expr::Comprehension(comprehension) => {
                self.comprehension(id, comprehension, depth, unordered)
            }
        }
    }

    fn ident(&mut self, id: u64, name: &str) -> Result<(), CelFault> {
        if self.variables.iter().any(|known| known == name) || TYPES.contains(&name) {
            return Ok(());
        }
        if name != "event" {
            return Err(self.fault(
                id,
                format!(
                    "knows no {name}: the only variable is event (as in event.metadata.{name})"
                ),
            ));
        }
        if let Some(body) = &mut self.inside {
            body.outer += 1;
        }
        Ok(())
    }

    fn call(&mut self, id: u64, call: &mut CallExpr, depth: usize) -> Result<(), CelFault> {
        let name = call.func_name.as_str();
        let known = match &call.target {
            None => {
                OPERATORS.contains(&name)
                    || CONVERSIONS.contains(&name)
                    || [
                        operators::IN,
                        operators::NOT_STRICTLY_FALSE,
                        "size",
                        "matches",
                    ]
                    .contains(&name)
            }
            Some(_) => MEMBER_FUNCTIONS.contains(&name),
        };
        if !known {
            return Err(self.fault(id, format!("knows no function {name}")));
        }
        if name == operators::ADD {
            self.additions += 1;
            if self.additions > MAX_ADDITIONS {
                return Err(self.fault(id, too_many("+", MAX_ADDITIONS)));
            }
        }
        let sized = name == "size";
        let contained = name == operators::IN;
        if name == "matches" {
            self.pattern(id, call)?;
        }
        if let Some(target) = &mut call.target {
            self.visit(target, depth + 1, sized)?;
        }
        for (index, arg) in call.args.iter_mut().enumerate() {
            self.visit(arg, depth + 1, sized || (contained && index == 1))?;
        }
        Ok(())
    }

    /// Compiles the pattern of a `matches` once, and makes the call one to its own function.
    fn pattern(&mut self, id: u64, call: &mut CallExpr) -> Result<(), CelFault> {
        let arity = if call.target.is_some() { 1 } else { 2 };
        let pattern = match call.args.last().map(|arg| &arg.expr) {
            Some(Expr::Literal(LiteralValue::String(pattern))) if call.args.len() == arity => {
                pattern.inner().to_owned()
            }
            _ => {
                return Err(self.fault(id, "matches needs a text and a pattern in quotes"));
            }
        };
        if pattern.len() > MAX_PATTERN_BYTES {
            return Err(self.fault(
                id,
                format!("has a pattern of more than {MAX_PATTERN_BYTES} bytes"),
            ));
        }
        if self.patterns.len() == MAX_PATTERNS {
            return Err(self.fault(id, too_many("matches", MAX_PATTERNS)));
        }
        let pattern = RegexBuilder::new(&pattern)
            .size_limit(MAX_PATTERN_PROGRAM)
            .build()
            .map_err(|e| self.fault(id, format!("has a pattern that cannot be used: {e}")))?;
        call.func_name = matches_name(self.patterns.len());
        call.args.pop();
        call.args.extend(call.target.take().map(|target| *target));
        self.patterns.push(pattern);
        if let Some(body) = &mut self.inside {
            body.patterns += 1;
        }
        Ok(())
    }

    fn comprehension(
        &mut self,
        id: u64,
        comprehension: &mut ComprehensionExpr,
        depth: usize,
        unordered: bool,
    ) -> Result<(), CelFault> {
        if self.inside.is_some() {
            return Err(self.fault(id, "must not use all, exists, map or filter inside another"));
        }
        if self.loops.len() == MAX_LOOPS {
            return Err(self.fault(id, too_many("all, exists, map or filter", MAX_LOOPS)));
        }
        if !is_place(&comprehension.iter_range) {
            return Err(self.fault(
                id,
                "may use all, exists, map and filter only on a field of the event or a list in brackets",
            ));
        }
        // Elements of a map come in no particular order, and the same event must give the same answer.
        if matches!(comprehension.accu_init.expr, Expr::List(_)) && !unordered {
            return Err(self.fault(id, "may use map and filter only inside size(…) or after in"));
        }
        if comprehension.iter_var == "event" {
            return Err(self.fault(id, "must not give another meaning to event"));
        }
        self.visit(&mut comprehension.iter_range, depth + 1, false)?;
        let range = comprehension.iter_range.clone();
        self.inside = Some(Body::default());
        self.variables.push(comprehension.iter_var.clone());
        self.variables.extend(comprehension.iter_var2.clone());
        self.variables.push(comprehension.accu_var.clone());
        self.visit(&mut comprehension.accu_init, depth + 1, false)?;
        self.visit(&mut comprehension.loop_cond, depth + 1, false)?;
        self.visit(&mut comprehension.loop_step, depth + 1, false)?;
        self.visit(&mut comprehension.result, depth + 1, false)?;
        self.variables.clear();
        let body = self.inside.take().unwrap_or_default();
        if body.patterns > 0 && body.outer > 0 {
            return Err(self.fault(
                id,
                "must not use event and matches together inside all, exists, map or filter",
            ));
        }
        self.loops.push(Loop {
            range,
            operations: body.operations,
            outer: body.outer,
        });
        Ok(())
    }
}

/// Whether the node is a field of something, or a literal: its size is no larger than what is there.
fn is_place(node: &IdedExpr) -> bool {
    match &node.expr {
        Expr::Ident(_) | Expr::List(_) | Expr::Map(_) => true,
        Expr::Select(select) => !select.test && is_place(&select.operand),
        Expr::Call(call) => {
            call.func_name == operators::INDEX && call.args.first().is_some_and(is_place)
        }
        _ => false,
    }
}

fn too_many(what: &str, most: usize) -> String {
    format!("has more than {most} {what}")
}
