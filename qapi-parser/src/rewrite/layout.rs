//! A tree to text, in the one layout that `format` and `migrate` write.
//! Expressions have a key a line, members a line each under one another, lists filled lines; what
//! holds a comment is broken into lines around it.
//! Invariant: the text reads as the tree it was made of, so laying out again changes nothing.

use super::tree::{Comment, Container, File, Item, Lead, Node, Pair, Value};

/// Columns a line should keep to.
const WIDTH: usize = 79;
/// How far a container that begins on the line before indents its items.
const STEP: usize = 4;
/// Items do not begin further right than here, if they can begin further left.
const FAR: usize = 40;

/// What a value is to the expression, as far as layout cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// The whole expression.
    Top,
    /// The object of members, branches or pragmas.
    Members,
    /// A type: its list is written without spaces.
    Type,
    /// Anything else.
    Plain,
}

impl Role {
    /// The role of what stands under `key` in an object of this role.
    fn under(self, key: &str) -> Self {
        match (self, key) {
            (Self::Top, "data" | "base" | "pragma") => Self::Members,
            (Self::Top, "returns") => Self::Type,
            (Self::Top, _) => Self::Plain,
            (_, "all" | "any" | "features") => Self::Plain,
            (_, exceptions) if exceptions.ends_with("-exceptions") => Self::Plain,
            (Self::Members | Self::Plain | Self::Type, _) => Self::Type,
        }
    }
}

/// The text of `file`.
pub(super) fn text(file: &File) -> String {
    let mut printer = Printer::default();
    for item in &file.items {
        printer.item(item);
    }
    for comment in &file.end {
        printer.comment(comment, 0);
    }
    let mut text = printer.out;
    if !text.is_empty() {
        text.push('\n');
    }
    text
}

#[derive(Debug, Default)]
struct Printer {
    out: String,
    column: usize,
    /// A comment ends this line.
    ended: bool,
}

impl Printer {
    fn push(&mut self, text: &str) {
        self.out.push_str(text);
        self.column += text.chars().count();
    }

    fn new_line(&mut self, indent: usize) {
        if !self.out.is_empty() {
            self.out.push('\n');
        }
        self.out.push_str(&" ".repeat(indent));
        self.column = indent;
        self.ended = false;
    }

    fn blank_line(&mut self) {
        if !self.out.is_empty() {
            self.out.push('\n');
        }
    }

    fn comment(&mut self, comment: &Comment, indent: usize) {
        if comment.alone || self.ended || self.out.is_empty() {
            if comment.gap {
                self.blank_line();
            }
            self.new_line(indent);
        } else {
            self.push(" ");
        }
        self.push(&comment.text);
        self.ended = true;
    }

    /// Writes what stands before a token; true when the token then begins a line.
    fn lead(&mut self, lead: &Lead, indent: usize) -> bool {
        for comment in &lead.comments {
            self.comment(comment, indent);
        }
        if !self.ended {
            return false;
        }
        if lead.gap {
            self.blank_line();
        }
        self.new_line(indent);
        true
    }

    fn lead_on_new_line(&mut self, lead: &Lead, indent: usize) {
        if !self.lead(lead, indent) {
            if lead.gap {
                self.blank_line();
            }
            self.new_line(indent);
        }
    }

    fn item(&mut self, item: &Item) {
        let mut before = item.before.clone();
        before.gap &= !is_documentation(&before.comments);
        if self.out.is_empty() && before.comments.is_empty() {
            self.new_line(0);
        } else {
            self.lead_on_new_line(&before, 0);
        }
        self.object(&item.object, Role::Top, 0, 0);
    }

    /// `tail` columns must stay free behind the value for brackets and commas.
    fn value(&mut self, value: &Value, role: Role, indent: usize, tail: usize) {
        match &value.node {
            Node::String(text) => self.push(&format!("'{text}'")),
            Node::Bool(value) => self.push(bool_text(*value)),
            Node::List(list) => self.list(list, role, indent, tail),
            Node::Object(object) => self.object(object, role, indent, tail),
        }
    }

    fn pair(&mut self, pair: &Pair, role: Role, indent: usize, tail: usize) {
        self.push(&format!("'{}':", pair.key));
        if !self.lead(&pair.value.before, indent + STEP) {
            self.push(" ");
        }
        self.value(&pair.value, role.under(&pair.key), indent, tail);
    }

    fn object(&mut self, object: &Container<Pair>, role: Role, indent: usize, tail: usize) {
        if object.items.is_empty() && object.end.comments.is_empty() {
            return self.push("{}");
        }
        if may_be_flat(object, role)
            && let Some(width) = flat_object(object, role)
            && self.column + width + tail <= WIDTH
        {
            self.push("{ ");
            for (index, pair) in object.items.iter().enumerate() {
                if index > 0 {
                    self.push(", ");
                }
                self.pair(pair, role, indent, 0);
            }
            return self.push(" }");
        }
        let widths = object.items.iter().map(|pair| least_pair(pair, role));
        let widest = widths.max().unwrap_or(0);
        let first = object.items.first().map(|pair| &pair.before);
        let at = self.open("{", first, widest, indent, role);
        for (index, pair) in object.items.iter().enumerate() {
            let last = index + 1 == object.items.len();
            if index > 0 {
                self.push(",");
                self.lead_on_new_line(&pair.before, at.items);
            }
            let tail = if last { at.tail(tail) } else { 1 };
            self.pair(pair, role, at.items, tail);
        }
        self.close(&object.end, &at, "}");
    }

    fn list(&mut self, list: &Container<Value>, role: Role, indent: usize, tail: usize) {
        if list.items.is_empty() && list.end.comments.is_empty() {
            return self.push("[]");
        }
        let flat = flat_list(list, role).filter(|width| self.column + width + tail <= WIDTH);
        if flat.is_some() {
            let space = list_space(list, role);
            self.push("[");
            self.push(space);
            for (index, value) in list.items.iter().enumerate() {
                if index > 0 {
                    self.push(", ");
                }
                self.value(value, Role::Plain, indent, 0);
            }
            self.push(space);
            return self.push("]");
        }
        let widest = list.items.iter().map(least_value).max().unwrap_or(0);
        let first = list.items.first().map(|value| &value.before);
        let at = self.open("[", first, widest, indent, role);
        for (index, value) in list.items.iter().enumerate() {
            let last = index + 1 == list.items.len();
            let tail = if last { at.tail(tail) } else { 1 };
            if index > 0 {
                self.push(",");
                let both = value.as_str().is_some() && list.items[index - 1].as_str().is_some();
                let fits = self.column + 1 + least_value(value) + tail <= WIDTH;
                if both && fits && value.before.comments.is_empty() {
                    self.push(" ");
                } else {
                    let before = Lead {
                        gap: value.before.gap && !value.before.comments.is_empty(),
                        ..value.before.clone()
                    };
                    self.lead_on_new_line(&before, at.items);
                }
            }
            self.value(value, Role::Plain, at.items, tail);
        }
        self.close(&list.end, &at, "]");
    }

    /// Opens a broken container: its items under the first, or all further left.
    fn open(
        &mut self,
        bracket: &str,
        first: Option<&Lead>,
        widest: usize,
        indent: usize,
        role: Role,
    ) -> Broken {
        self.push(bracket);
        let aligned = self.column + 1;
        let step = if role == Role::Top { 2 } else { STEP };
        let narrow = aligned + widest > WIDTH || aligned > FAR;
        let keeps = indent + step >= aligned || !narrow;
        if let Some(first) = first
            && first.comments.is_empty()
            && keeps
        {
            self.push(" ");
            return Broken {
                items: aligned,
                close: None,
                outer: indent,
            };
        }
        let items = indent + step;
        if let Some(first) = first {
            let gap = first.gap && !first.comments.is_empty();
            let comments = first.comments.clone();
            self.lead_on_new_line(&Lead { comments, gap }, items);
        }
        Broken {
            items,
            close: Some(indent),
            outer: indent,
        }
    }

    fn close(&mut self, end: &Lead, at: &Broken, bracket: &str) {
        let end = Lead {
            gap: false,
            ..end.clone()
        };
        for comment in &end.comments {
            self.comment(comment, at.items);
        }
        match at.close {
            Some(indent) => self.new_line(indent),
            None if self.ended => self.new_line(at.outer),
            None => self.push(" "),
        }
        self.push(bracket);
    }
}

/// How a container is broken into lines.
struct Broken {
    /// Column of the items.
    items: usize,
    /// Column of the closing bracket, if that has a line of its own.
    close: Option<usize>,
    /// Indentation of what the container stands in.
    outer: usize,
}

impl Broken {
    /// Columns behind the last item, where `tail` are behind the container.
    fn tail(&self, tail: usize) -> usize {
        match self.close {
            Some(_) => 0,
            None => tail + 2,
        }
    }
}

fn bool_text(value: bool) -> &'static str {
    if value { "true" } else { "false" }
}

/// Whether `comments` end in a block about a definition: QEMU lets that follow at once.
fn is_documentation(comments: &[Comment]) -> bool {
    let Some((last, rest)) = comments.split_last() else {
        return false;
    };
    let open = rest.iter().rposition(|comment| comment.text == "##");
    let title = open.and_then(|open| rest.get(open + 1));
    last.text == "##" && title.is_some_and(|title| title.text.starts_with("# @"))
}

/// Whether an object may stand on one line, if there is room.
fn may_be_flat(object: &Container<Pair>, role: Role) -> bool {
    let is_word = |value: &Value| match &value.node {
        Node::String(_) | Node::Bool(_) => true,
        Node::List(list) => list.items.is_empty(),
        Node::Object(object) => object.items.is_empty(),
    };
    match (role, &object.items[..]) {
        (Role::Top | Role::Members, [] | [_]) | (Role::Type | Role::Plain, _) => true,
        (Role::Top, [_, other]) => {
            is_word(&other.value)
                || matches!(&other.value.node, Node::List(list)
                    if role.under(&other.key) == Role::Type && list.items.iter().all(is_word))
        }
        (Role::Top | Role::Members, _) => false,
    }
}

fn list_space(list: &Container<Value>, role: Role) -> &'static str {
    if role == Role::Type && list.items.len() == 1 {
        ""
    } else {
        " "
    }
}

/// Columns of an object on one line; `None` where a comment forbids that.
fn flat_object(object: &Container<Pair>, role: Role) -> Option<usize> {
    if !object.end.comments.is_empty() {
        return None;
    }
    let mut width = 2;
    for pair in &object.items {
        if !pair.before.comments.is_empty() || !pair.value.before.comments.is_empty() {
            return None;
        }
        let under = role.under(&pair.key);
        width += 2 + quoted(&pair.key) + 2 + flat_value(&pair.value, under)?;
    }
    Some(width)
}

fn flat_list(list: &Container<Value>, role: Role) -> Option<usize> {
    if !list.end.comments.is_empty() {
        return None;
    }
    let mut width = 2 * list_space(list, role).len();
    for value in &list.items {
        if !value.before.comments.is_empty() {
            return None;
        }
        width += 2 + flat_value(value, Role::Plain)?;
    }
    Some(width)
}

fn flat_value(value: &Value, role: Role) -> Option<usize> {
    match &value.node {
        Node::String(text) => Some(quoted(text)),
        Node::Bool(value) => Some(bool_text(*value).len()),
        Node::List(list) if list.items.is_empty() && list.end.comments.is_empty() => Some(2),
        Node::Object(object) if object.items.is_empty() && object.end.comments.is_empty() => {
            Some(2)
        }
        Node::List(list) => flat_list(list, role),
        Node::Object(object) => may_be_flat(object, role)
            .then(|| flat_object(object, role))
            .flatten(),
    }
}

fn quoted(text: &str) -> usize {
    text.chars().count() + 2
}

/// Columns that a pair wants, with a comma.
fn least_pair(pair: &Pair, role: Role) -> usize {
    /// Values up to here are better kept on a line than broken.
    const WHOLE: usize = 60;
    let value = match flat_value(&pair.value, role.under(&pair.key)) {
        Some(width) if width <= WHOLE && role != Role::Top => width,
        _ => least_value(&pair.value),
    };
    quoted(&pair.key) + 2 + value + 1
}

/// Columns that a value needs, however it is broken.
fn least_value(value: &Value) -> usize {
    let of_items = match &value.node {
        Node::String(text) => return quoted(text),
        Node::Bool(value) => return bool_text(*value).len(),
        Node::List(list) => list.items.iter().map(least_value).max(),
        Node::Object(object) => {
            let pair = |pair: &Pair| quoted(&pair.key) + 2;
            object.items.iter().map(pair).max()
        }
    };
    2 + of_items.unwrap_or(0)
}
