//! What an expression that can be parsed may still not do, found in its syntax tree.

use std::sync::Arc;

use cel::IdedExpr;
use cel::common::ast::{
    CallExpr, ComprehensionExpr, EntryExpr, Expr, LiteralValue, SourceInfo, operators,
};
use regex::{Regex, RegexBuilder};

use super::cost::{Cost, Loop, Place, Range};
use super::{CelFault, CelRule, matches_name};

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
/// Largest compiled pattern, in bytes: what `\w+`, which means all of Unicode, needs. The larger,
/// the shorter the texts it may be matched with.
const MAX_PATTERN_PROGRAM: usize = 64 << 10;
/// Sizes a pattern's program is rounded up to; the crate does not tell it.
const PATTERN_PROGRAMS: [usize; 8] = [
    512,
    1 << 10,
    2 << 10,
    4 << 10,
    8 << 10,
    16 << 10,
    32 << 10,
    MAX_PATTERN_PROGRAM,
];
/// Longest text a number becomes, in bytes.
const NUMBER_TEXT: usize = 400;
/// Memory for the states a matcher has met, in bytes, per pattern and thread.
const PATTERN_CACHE: usize = 256 << 10;

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
        cost: Cost::default(),
        patterns: Vec::new(),
        additions: 0,
        nodes: 0,
    };
    checker.visit(&mut expression, 0, How::ONCE)?;
    Ok(CelRule {
        expression,
        cost: checker.cost,
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
    cost: Cost,
    patterns: Vec<Regex>,
    additions: usize,
    nodes: usize,
}

#[derive(Default)]
struct Body {
    operations: usize,
    programs: usize,
    literals: usize,
    places: Vec<Place>,
}

/// What is done with a node's value.
#[derive(Clone, Copy)]
struct How {
    /// How many operations may go through all of it.
    uses: usize,
    /// Size of the pattern it may be matched with.
    program: usize,
    /// Whether they do not care for the order of a list's elements.
    unordered: bool,
}

impl How {
    /// It is looked at.
    const ONCE: Self = Self {
        uses: 1,
        program: 0,
        unordered: false,
    };
    /// Only a part of it is looked at, which is counted where the part is named.
    const IN_PART: Self = Self {
        uses: 0,
        ..Self::ONCE
    };
    /// An operation of a small result goes through it, and may quote it in its error.
    const OPERAND: Self = Self {
        uses: 2,
        ..Self::ONCE
    };

    /// It becomes part of a value that this is done with, by so many operations.
    const fn after(self, operations: usize) -> Self {
        Self {
            uses: self.uses + operations,
            unordered: false,
            ..self
        }
    }
}

impl Checker<'_> {
    fn fault(&self, node: u64, message: impl Into<String>) -> CelFault {
        let at = self.source.offset_for(node).map_or(0, |(start, _)| start);
        CelFault::at_char(self.text, at as usize, message)
    }

    fn visit(&mut self, node: &mut IdedExpr, depth: usize, how: How) -> Result<(), CelFault> {
        if depth > MAX_TREE_DEPTH {
            return Err(self.fault(
                node.id,
                format!("has more than {MAX_TREE_DEPTH} operations inside one another"),
            ));
        }
        self.nodes += 1;
        if let Some(body) = &mut self.inside {
            body.operations += 1;
        }
        let id = node.id;
        let place = root(node).map(ToOwned::to_owned);
        // The parts of a path lead to its end, and all else to the whole.
        let inner = match place {
            Some(_) => How::IN_PART,
            None => how.after(1),
        };
        match &mut node.expr {
            Expr::Unspecified => return Err(self.fault(id, "cannot be read")),
            Expr::Literal(literal) => {
                if let LiteralValue::String(text) = literal {
                    self.literal(text.inner().len(), how);
                }
            }
            Expr::Ident(name) => self.ident(id, name)?,
            Expr::Select(select) => {
                let inner = if select.test { How::IN_PART } else { inner };
                self.visit(&mut select.operand, depth + 1, inner)?;
            }
            Expr::Struct(_) => return Err(self.fault(id, "must not make messages")),
            Expr::List(list) => {
                if list.elements.len() > MAX_LITERAL {
                    return Err(self.fault(id, too_many("elements in a list", MAX_LITERAL)));
                }
                for element in &mut list.elements {
                    self.visit(element, depth + 1, inner)?;
                }
            }
            Expr::Map(map) => {
                if map.entries.len() > MAX_LITERAL {
                    return Err(self.fault(id, too_many("entries in a map", MAX_LITERAL)));
                }
                for entry in &mut map.entries {
                    let EntryExpr::MapEntry(entry) = &mut entry.expr else {
                        return Err(self.fault(id, "must not make messages"));
                    };
                    self.visit(&mut entry.key, depth + 1, inner)?;
                    self.visit(&mut entry.value, depth + 1, inner)?;
                }
            }
            Expr::Call(call) if call.func_name == operators::INDEX && call.args.len() == 2 => {
                self.visit(&mut call.args[0], depth + 1, inner)?;
                self.visit(&mut call.args[1], depth + 1, How::OPERAND)?;
            }
            Expr::Call(call) => self.call(id, call, depth, how)?,
            Expr::Comprehension(comprehension) => {
                self.comprehension(id, comprehension, depth, how)?;
            }
        }
        if let Some(root) = place {
            self.place(&root, node, how);
        }
        Ok(())
    }

    fn ident(&self, id: u64, name: &str) -> Result<(), CelFault> {
        if name == "event" || self.is_variable(name) || TYPES.contains(&name) {
            return Ok(());
        }
        Err(self.fault(
            id,
            format!("knows no {name}: the only variable is event (as in event.metadata.{name})"),
        ))
    }

    fn is_variable(&self, name: &str) -> bool {
        self.variables.iter().any(|known| known == name)
    }

    /// Notes what is done with the value at the path `node`, which begins with the name `root`.
    fn place(&mut self, root: &str, node: &IdedExpr, how: How) {
        if how.uses == 0 {
            return;
        }
        let variable = self.is_variable(root);
        let place = Place {
            expression: is_simple(node).then(|| node.clone()),
            uses: how.uses,
            program: how.program,
        };
        match &mut self.inside {
            Some(body) if variable => {
                body.operations += how.uses;
                body.programs += how.uses * how.program;
            }
            Some(body) if root == "event" => body.places.push(place),
            None if root == "event" => self.cost.places.push(place),
            _ => {}
        }
    }

    fn literal(&mut self, bytes: usize, how: How) {
        let literals = match &mut self.inside {
            Some(body) => &mut body.literals,
            None => &mut self.cost.literals,
        };
        *literals += bytes * how.program * how.uses;
    }

    fn call(
        &mut self,
        id: u64,
        call: &mut CallExpr,
        depth: usize,
        how: How,
    ) -> Result<(), CelFault> {
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
        // What is done with the first argument (or the target), and with the others.
        let (first, others) = match name {
            operators::ADD => {
                self.additions += 1;
                if self.additions > MAX_ADDITIONS {
                    return Err(self.fault(id, too_many("+", MAX_ADDITIONS)));
                }
                (how.after(2), how.after(2))
            }
            operators::CONDITIONAL => (How::OPERAND, how),
            "string" => {
                self.literal(NUMBER_TEXT, how);
                (how.after(2), How::OPERAND)
            }
            "size" => {
                let unordered = true;
                let how = How {
                    unordered,
                    ..How::OPERAND
                };
                (how, how)
            }
            operators::IN => {
                let unordered = true;
                let container = How {
                    unordered,
                    ..How::OPERAND
                };
                (How::OPERAND, container)
            }
            "matches" => {
                let program = self.pattern(id, call)?;
                let text = How {
                    program,
                    ..How::ONCE
                };
                (text, text)
            }
            _ => (How::OPERAND, How::OPERAND),
        };
        if let Some(target) = &mut call.target {
            self.visit(target, depth + 1, first)?;
        }
        let target = usize::from(call.target.is_some());
        for (index, arg) in call.args.iter_mut().enumerate() {
            let how = if index + target == 0 { first } else { others };
            self.visit(arg, depth + 1, how)?;
        }
        Ok(())
    }

    /// Compiles the pattern of a `matches` once, and makes the call one to its own function. Gives
    /// the size of its program.
    fn pattern(&mut self, id: u64, call: &mut CallExpr) -> Result<usize, CelFault> {
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
        let (pattern, program) = compiled(&pattern)
            .map_err(|e| self.fault(id, format!("has a pattern that cannot be used: {e}")))?;
        call.func_name = matches_name(self.patterns.len());
        call.args.pop();
        call.args.extend(call.target.take().map(|target| *target));
        self.patterns.push(pattern);
        Ok(program)
    }

    fn comprehension(
        &mut self,
        id: u64,
        comprehension: &mut ComprehensionExpr,
        depth: usize,
        how: How,
    ) -> Result<(), CelFault> {
        if self.inside.is_some() {
            return Err(self.fault(id, "must not use all, exists, map or filter inside another"));
        }
        if self.cost.loops.len() == MAX_LOOPS {
            return Err(self.fault(id, too_many("all, exists, map or filter", MAX_LOOPS)));
        }
        if !is_place(&comprehension.iter_range) {
            return Err(self.fault(
                id,
                "may use all, exists, map and filter only on a field of the event or a list in brackets",
            ));
        }
        // Elements of a map come in no particular order, and the same event must give the same answer.
        if matches!(comprehension.accu_init.expr, Expr::List(_)) && !how.unordered {
            return Err(self.fault(id, "may use map and filter only inside size(…) or after in"));
        }
        if comprehension.iter_var == "event" {
            return Err(self.fault(id, "must not give another meaning to event"));
        }
        let (nodes, places) = (self.nodes, self.cost.places.len());
        self.visit(&mut comprehension.iter_range, depth + 1, How::OPERAND)?;
        let range = if is_simple(&comprehension.iter_range) {
            Range::Place(comprehension.iter_range.clone())
        } else {
            Range::Literal {
                parts: self.nodes - nodes,
                places: self.cost.places[places..].to_vec(),
            }
        };
        self.inside = Some(Body::default());
        self.variables.push(comprehension.iter_var.clone());
        self.variables.extend(comprehension.iter_var2.clone());
        self.variables.push(comprehension.accu_var.clone());
        self.visit(&mut comprehension.accu_init, depth + 1, How::ONCE)?;
        self.visit(&mut comprehension.loop_cond, depth + 1, How::ONCE)?;
        self.visit(&mut comprehension.loop_step, depth + 1, How::ONCE)?;
        self.visit(&mut comprehension.result, depth + 1, How::ONCE)?;
        self.variables.clear();
        let body = self.inside.take().unwrap_or_default();
        self.cost.loops.push(Loop {
            range,
            operations: body.operations,
            programs: body.programs,
            literals: body.literals,
            places: body.places,
        });
        Ok(())
    }
}

/// The pattern, and the size of its program in bytes, rounded up.
fn compiled(pattern: &str) -> Result<(Regex, usize), regex::Error> {
    for program in PATTERN_PROGRAMS {
        let compiled = RegexBuilder::new(pattern)
            .size_limit(program)
            .dfa_size_limit(PATTERN_CACHE)
            .build();
        match compiled {
            Ok(regex) => return Ok((regex, program)),
            Err(regex::Error::CompiledTooBig(_)) => {}
            Err(e) => return Err(e),
        }
    }
    Err(regex::Error::CompiledTooBig(MAX_PATTERN_PROGRAM))
}

/// The name a path (`a.b`, `a['b']`) begins with; none for what is no path, and for `has(…)`.
fn root(node: &IdedExpr) -> Option<&str> {
    match &node.expr {
        Expr::Ident(name) => Some(name),
        Expr::Select(select) if !select.test => root(&select.operand),
        Expr::Call(call) if call.func_name == operators::INDEX => root(call.args.first()?),
        _ => None,
    }
}

/// Whether the node is a path into the event that can be followed without doing anything else.
fn is_simple(node: &IdedExpr) -> bool {
    match &node.expr {
        Expr::Ident(name) => name == "event",
        Expr::Select(select) => !select.test && is_simple(&select.operand),
        Expr::Call(call) if call.func_name == operators::INDEX => {
            let plain = |arg: &IdedExpr| matches!(arg.expr, Expr::Literal(_)) || is_simple(arg);
            matches!(&call.args[..], [place, index] if is_simple(place) && plain(index))
        }
        _ => false,
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
