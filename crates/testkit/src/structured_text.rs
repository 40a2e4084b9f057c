//! As much of Structured Text (IEC 61131-3) as a function block of ours uses: BOOL, INT, UDINT and arrays of them, IF, FOR,
//! assignments. Types are as strict as a PLC's compiler has them.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail, ensure};

/// A value of an elementary type.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value {
    /// BOOL.
    Bool(bool),
    /// Wider than a PLC's INT, which wraps at 16 bits: a test that comes near that fails.
    Int(i32),
    /// UDINT.
    Udint(u32),
    /// A number in the text, of whichever type stands beside it.
    Literal(i64),
}

impl Value {
    /// The value of a BOOL.
    ///
    /// # Errors
    /// When it is none.
    pub fn as_bool(self) -> Result<bool> {
        match self {
            Self::Bool(value) => Ok(value),
            other => bail!("{other:?} is no BOOL"),
        }
    }

    /// The value of a UDINT.
    ///
    /// # Errors
    /// When it is none.
    pub fn as_udint(self) -> Result<u32> {
        match self {
            Self::Udint(value) => Ok(value),
            other => bail!("{other:?} is no UDINT"),
        }
    }

    /// This value where `like` stands; only a literal adapts.
    fn fit(self, like: Self) -> Result<Self> {
        match (self, like) {
            (Self::Literal(number), Self::Int(_)) => Ok(Self::Int(i16::try_from(number)?.into())),
            (Self::Literal(number), Self::Udint(_)) => Ok(Self::Udint(number.try_into()?)),
            _ => {
                let same = std::mem::discriminant(&self) == std::mem::discriminant(&like);
                ensure!(same, "{self:?} does not go with {like:?}");
                Ok(self)
            }
        }
    }
}

#[derive(Debug)]
enum Expression {
    Value(Value),
    Variable(String),
    Element(String, Box<Expression>),
    Not(Box<Expression>),
    Minus(Box<Expression>),
    Binary(Box<Expression>, String, Box<Expression>),
}

#[derive(Debug)]
enum Statement {
    Assign(Expression, Expression),
    If(Vec<(Expression, Vec<Statement>)>, Vec<Statement>),
    For(String, Expression, Expression, Vec<Statement>),
}

/// A block with its memory, from scan to scan.
#[derive(Debug)]
pub struct FunctionBlock {
    variables: BTreeMap<String, Vec<Value>>,
    statements: Vec<Statement>,
}

impl FunctionBlock {
    /// Reads a block's text.
    ///
    /// # Errors
    /// When it is not written as a PLC's compiler has it.
    pub fn parse(text: &str) -> Result<Self> {
        let mut parser = Parser { tokens: tokens(text)?, next: 0 };
        parser.expect("FUNCTION_BLOCK")?;
        parser.take()?;
        let mut variables = BTreeMap::new();
        while parser.accept_any(&["VAR_INPUT", "VAR_OUTPUT", "VAR"]) {
            while !parser.accept("END_VAR") {
                let (name, values) = parser.declaration()?;
                ensure!(variables.insert(name.clone(), values).is_none(), "`{name}` is declared twice");
            }
        }
        let statements = parser.statements(&["END_FUNCTION_BLOCK"])?;
        parser.expect("END_FUNCTION_BLOCK")?;
        ensure!(parser.next == parser.tokens.len(), "text after the end");
        Ok(Self { variables, statements })
    }

    /// A variable's value.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn get(&self, name: &str) -> Result<Value> {
        self.element(name, 0)
    }

    /// Sets a variable.
    ///
    /// # Errors
    /// When there is none of this name, or it is of another type.
    pub fn set(&mut self, name: &str, value: Value) -> Result<()> {
        self.assign(name, 0, value)
    }

    /// Runs the block once.
    ///
    /// # Errors
    /// When a statement cannot be carried out.
    pub fn scan(&mut self) -> Result<()> {
        let statements = std::mem::take(&mut self.statements);
        let outcome = self.run(&statements);
        self.statements = statements;
        outcome
    }

    fn element(&self, name: &str, index: usize) -> Result<Value> {
        let values = self.variables.get(name).with_context(|| format!("`{name}` is not declared"))?;
        values.get(index).copied().with_context(|| format!("`{name}` has no place {index}"))
    }

    fn assign(&mut self, name: &str, index: usize, value: Value) -> Result<()> {
        let fitting = value.fit(self.element(name, index)?).with_context(|| format!("in `{name}`"))?;
        if let Some(place) = self.variables.get_mut(name).and_then(|values| values.get_mut(index)) {
            *place = fitting;
        }
        Ok(())
    }

    fn run(&mut self, statements: &[Statement]) -> Result<()> {
        for statement in statements {
            match statement {
                Statement::Assign(Expression::Variable(name), value) => {
                    let value = self.value(value)?;
                    self.assign(name, 0, value)?;
                }
                Statement::Assign(Expression::Element(name, index), value) => {
                    let (index, value) = (self.index(index)?, self.value(value)?);
                    self.assign(name, index, value)?;
                }
                Statement::Assign(..) => bail!("nothing can be assigned to that"),
                Statement::If(branches, otherwise) => self.branch(branches, otherwise)?,
                Statement::For(name, from, to, body) => {
                    let (from, to) = (self.index(from)?, self.index(to)?);
                    for number in from..=to {
                        self.assign(name, 0, Value::Literal(number.try_into()?))?;
                        self.run(body)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn branch(&mut self, branches: &[(Expression, Vec<Statement>)], otherwise: &[Statement]) -> Result<()> {
        for (condition, body) in branches {
            if self.value(condition)?.as_bool()? {
                return self.run(body);
            }
        }
        self.run(otherwise)
    }

    fn index(&self, expression: &Expression) -> Result<usize> {
        match self.value(expression)? {
            Value::Int(number) => Ok(number.try_into()?),
            Value::Literal(number) => Ok(number.try_into()?),
            other => bail!("{other:?} is no INT"),
        }
    }

    fn value(&self, expression: &Expression) -> Result<Value> {
        match expression {
            Expression::Value(value) => Ok(*value),
            Expression::Variable(name) => self.get(name),
            Expression::Element(name, index) => self.element(name, self.index(index)?),
            Expression::Not(inner) => Ok(Value::Bool(!self.value(inner)?.as_bool()?)),
            Expression::Minus(inner) => match self.value(inner)? {
                Value::Literal(number) => Ok(Value::Literal(-number)),
                other => bail!("{other:?} has no sign"),
            },
            // Both sides are looked at, as many a PLC does: a side that must not be is a mistake here too.
            Expression::Binary(left, operator, right) => binary(self.value(left)?, operator, self.value(right)?),
        }
    }
}

fn binary(left: Value, operator: &str, right: Value) -> Result<Value> {
    let (left, right) = match (left, right) {
        (Value::Literal(_), other) => (left.fit(other)?, right),
        (other, Value::Literal(_)) => (left, right.fit(other)?),
        (left, right) => (left, right.fit(left)?),
    };
    Ok(match (left, operator, right) {
        (Value::Bool(left), "AND", Value::Bool(right)) => Value::Bool(left && right),
        (Value::Bool(left), "OR", Value::Bool(right)) => Value::Bool(left || right),
        (Value::Bool(left), "=", Value::Bool(right)) => Value::Bool(left == right),
        (Value::Udint(left), "+", Value::Udint(right)) => Value::Udint(left.wrapping_add(right)),
        (Value::Udint(left), "-", Value::Udint(right)) => Value::Udint(left.wrapping_sub(right)),
        (Value::Int(left), "+", Value::Int(right)) => Value::Int(left.checked_add(right).context("INT overflows")?),
        (Value::Int(left), "-", Value::Int(right)) => Value::Int(left.checked_sub(right).context("INT overflows")?),
        (Value::Int(left), "MOD", Value::Int(right)) => Value::Int(left.checked_rem(right).context("MOD 0")?),
        (Value::Int(left), operator, Value::Int(right)) => Value::Bool(compare(&left, operator, &right)?),
        (Value::Udint(left), operator, Value::Udint(right)) => Value::Bool(compare(&left, operator, &right)?),
        (left, operator, _) => bail!("`{operator}` does not go with {left:?}"),
    })
}

fn compare<T: Ord>(left: &T, operator: &str, right: &T) -> Result<bool> {
    Ok(match operator {
        "=" => left == right,
        "<>" => left != right,
        "<" => left < right,
        "<=" => left <= right,
        ">" => left > right,
        ">=" => left >= right,
        other => bail!("`{other}` is no comparison"),
    })
}

fn tokens(text: &str) -> Result<Vec<String>> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        if let Some(comment) = rest.strip_prefix("(*") {
            rest = comment.split_once("*)").context("a comment without an end")?.1.trim_start();
            continue;
        }
        let is_word = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
        let two = rest.get(..2).filter(|two| [":=", "<=", ">=", "<>", ".."].contains(two));
        let length = match two {
            Some(two) => two.len(),
            None if is_word(first) => rest.find(|letter| !is_word(letter)).unwrap_or(rest.len()),
            None => {
                ensure!("+-=<>()[];:,".contains(first), "`{first}` means nothing");
                first.len_utf8()
            }
        };
        let (token, after) = rest.split_at(length);
        tokens.push(token.to_owned());
        rest = after.trim_start();
    }
    Ok(tokens)
}

struct Parser {
    tokens: Vec<String>,
    next: usize,
}

/// From the loosest to the tightest.
const OPERATORS: [&[&str]; 6] = [&["OR"], &["AND"], &["=", "<>"], &["<", "<=", ">", ">="], &["+", "-"], &["MOD"]];

impl Parser {
    fn peek(&self) -> &str {
        self.tokens.get(self.next).map_or("", String::as_str)
    }

    fn take(&mut self) -> Result<String> {
        let token = self.tokens.get(self.next).cloned().context("the text ends too early")?;
        self.next += 1;
        Ok(token)
    }

    fn accept(&mut self, token: &str) -> bool {
        let is_it = self.peek() == token;
        self.next += usize::from(is_it);
        is_it
    }

    fn accept_any(&mut self, tokens: &[&str]) -> bool {
        tokens.iter().any(|token| self.accept(token))
    }

    fn expect(&mut self, token: &str) -> Result<()> {
        let before = self.tokens[self.next.saturating_sub(6)..self.next.min(self.tokens.len())].join(" ");
        ensure!(self.accept(token), "`{token}` is missing after `{before}`, there is `{}`", self.peek());
        Ok(())
    }

    fn number(&mut self) -> Result<i64> {
        Ok(self.take()?.parse()?)
    }

    fn declaration(&mut self) -> Result<(String, Vec<Value>)> {
        let name = self.take()?;
        self.expect(":")?;
        let mut places = 1;
        if self.accept("ARRAY") {
            self.expect("[")?;
            ensure!(self.number()? == 0, "arrays begin with 0 here");
            self.expect("..")?;
            places = usize::try_from(self.number()? + 1)?;
            self.expect("]")?;
            self.expect("OF")?;
        }
        let mut value = match self.take()?.as_str() {
            "BOOL" => Value::Bool(false),
            "INT" => Value::Int(0),
            "UDINT" => Value::Udint(0),
            other => bail!("`{other}` is no type here"),
        };
        if self.accept(":=") {
            value = Value::Literal(self.number()?).fit(value)?;
        }
        self.expect(";")?;
        Ok((name, vec![value; places]))
    }

    fn statements(&mut self, ends: &[&str]) -> Result<Vec<Statement>> {
        let mut statements = Vec::new();
        while !ends.contains(&self.peek()) {
            statements.push(self.statement()?);
        }
        Ok(statements)
    }

    fn statement(&mut self) -> Result<Statement> {
        if self.accept("IF") {
            return self.if_statement();
        }
        if self.accept("FOR") {
            let name = self.take()?;
            self.expect(":=")?;
            let from = self.expression(0)?;
            self.expect("TO")?;
            let to = self.expression(0)?;
            self.expect("DO")?;
            let body = self.statements(&["END_FOR"])?;
            self.expect("END_FOR")?;
            self.expect(";")?;
            return Ok(Statement::For(name, from, to, body));
        }
        let target = self.primary()?;
        self.expect(":=")?;
        let value = self.expression(0)?;
        self.expect(";")?;
        Ok(Statement::Assign(target, value))
    }

    fn if_statement(&mut self) -> Result<Statement> {
        let mut branches = Vec::new();
        loop {
            let condition = self.expression(0)?;
            self.expect("THEN")?;
            branches.push((condition, self.statements(&["ELSIF", "ELSE", "END_IF"])?));
            if !self.accept("ELSIF") {
                break;
            }
        }
        let otherwise = if self.accept("ELSE") { self.statements(&["END_IF"])? } else { Vec::new() };
        self.expect("END_IF")?;
        self.expect(";")?;
        Ok(Statement::If(branches, otherwise))
    }

    fn expression(&mut self, level: usize) -> Result<Expression> {
        let Some(operators) = OPERATORS.get(level) else { return self.primary() };
        let mut left = self.expression(level + 1)?;
        while operators.contains(&self.peek()) {
            let operator = self.take()?;
            let right = self.expression(level + 1)?;
            left = Expression::Binary(Box::new(left), operator, Box::new(right));
        }
        Ok(left)
    }

    fn primary(&mut self) -> Result<Expression> {
        let token = self.take()?;
        Ok(match token.as_str() {
            "NOT" => Expression::Not(Box::new(self.primary()?)),
            "-" => Expression::Minus(Box::new(self.primary()?)),
            "TRUE" => Expression::Value(Value::Bool(true)),
            "FALSE" => Expression::Value(Value::Bool(false)),
            "(" => {
                let inner = self.expression(0)?;
                self.expect(")")?;
                inner
            }
            number if number.starts_with(|letter: char| letter.is_ascii_digit()) => {
                Expression::Value(Value::Literal(number.parse()?))
            }
            _ if self.accept("[") => {
                let index = self.expression(0)?;
                self.expect("]")?;
                Expression::Element(token, Box::new(index))
            }
            _ => Expression::Variable(token),
        })
    }
}
