//! Checked conversions between values and typed data.
//! Generated types implement [`Fields`] or [`Wire`]; `decode` checks in the order in which QEMU
//! does: members in schema order (missing, mistyped), then those that nobody asked for.
//! Invariant: an error names the member by its full path from the arguments' root, except where
//! QEMU's text has the last name only (enum values, integer ranges, anonymous unions).

use std::fmt;

use super::error::Error;
use super::value::{Object, Value};

/// What to do with members that the schema does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unknown {
    /// They are errors: a server checks its input.
    Refuse,
    /// They are skipped: a client may be older than its server.
    Ignore,
}

/// How deep typed data may nest. Types that contain themselves are read by recursion, which must
/// fit a small stack whatever the input is.
const MAX_DEPTH: u32 = 128;

/// How to read a value, and how deep in the input it is.
#[derive(Debug, Clone, Copy)]
pub struct Context {
    unknown: Unknown,
    depth: u32,
}

impl Context {
    /// For a member or element of what is read in this context.
    fn deeper(self) -> Result<Self, Invalid> {
        let depth = self.depth + 1;
        if depth > MAX_DEPTH {
            return Err(Invalid::new(Reason::TooDeep));
        }
        Ok(Self { depth, ..self })
    }
}

/// Typed data with a form on the wire.
pub trait Wire: Sized {
    /// Reads it from `value`.
    ///
    /// # Errors
    /// The first thing that does not fit the schema; a value nested deeper than 128 levels.
    fn decode(value: Value, unknown: Unknown) -> Result<Self, Invalid> {
        Self::read(value, Context { unknown, depth: 0 })
    }

    /// Reads it from `value`, which may be inside another. What `decode` does.
    ///
    /// # Errors
    /// As `decode`.
    fn read(value: Value, context: Context) -> Result<Self, Invalid>;

    /// Its form on the wire.
    fn encode(&self) -> Value;
}

/// Typed data that is the members of an object, and so has a form on the wire.
pub trait Fields: Sized {
    /// Takes its members out of `members`, leaving others.
    ///
    /// # Errors
    /// The first member that does not fit the schema.
    fn take(members: &mut Members) -> Result<Self, Invalid>;

    /// Adds its members to `object`.
    fn put(&self, object: &mut Object);
}

impl<T: Fields> Wire for T {
    fn read(value: Value, context: Context) -> Result<Self, Invalid> {
        let mut members = Members::new(value, context)?;
        let fields = T::take(&mut members)?;
        members.end()?;
        Ok(fields)
    }

    fn encode(&self) -> Value {
        let mut object = Object::new();
        self.put(&mut object);
        Value::Object(object)
    }
}

/// `Debug` of type `name` by its form on the wire: members by their names there, values as JSON.
///
/// # Errors
/// When `f` does not take more.
pub fn debug<T: Wire>(name: &str, data: &T, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match data.encode() {
        Value::Object(object) => debug_object(name, &object, f),
        value => f.debug_tuple(name).field(&format_args!("{value}")).finish(),
    }
}

/// `Debug` of type `name` that has the members of `object`.
///
/// # Errors
/// When `f` does not take more.
pub fn debug_object(name: &str, object: &Object, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let mut members = f.debug_struct(name);
    for (name, value) in object.iter() {
        members.field(name, &format_args!("{value}"));
    }
    members.finish()
}

/// Members of an object that were not asked for yet.
#[derive(Debug)]
pub struct Members {
    left: Vec<(String, Option<Value>)>,
    context: Context,
}

impl Members {
    /// The members of `value`.
    ///
    /// # Errors
    /// When it is not an object.
    fn new(value: Value, context: Context) -> Result<Self, Invalid> {
        let Value::Object(object) = value else {
            return Err(Invalid::mistyped("object"));
        };
        let left = object
            .into_iter()
            .map(|(name, value)| (name, Some(value)))
            .collect();
        Ok(Self { left, context })
    }

    /// The members of these names, in this order: as an `Option` those that may be left out.
    /// One call for all is much less work for the compiler than a `?` each.
    ///
    /// # Errors
    /// The first member that is missing or does not fit.
    pub fn take<T: Several<N>, const N: usize>(
        &mut self,
        names: [&'static str; N],
    ) -> Result<T, Invalid> {
        T::take(self, names)
    }

    fn find(&mut self, name: &str) -> Option<Value> {
        self.left
            .iter_mut()
            .find(|(key, _)| key == name)
            .and_then(|(_, value)| value.take())
    }

    /// Required member `name`.
    ///
    /// # Errors
    /// When it is missing or does not fit.
    pub fn req<T: Wire>(&mut self, name: &'static str) -> Result<T, Invalid> {
        match self.opt(name)? {
            Some(value) => Ok(value),
            None => Err(Invalid::missing().at(name)),
        }
    }

    /// Optional member `name`. `null` is a value like any other.
    ///
    /// # Errors
    /// When it is there and does not fit.
    pub fn opt<T: Wire>(&mut self, name: &'static str) -> Result<Option<T>, Invalid> {
        let Some(value) = self.find(name) else {
            return Ok(None);
        };
        let read = self
            .context
            .deeper()
            .and_then(|context| T::read(value, context));
        read.map(Some).map_err(|error| error.at(name))
    }

    /// The members of a union's branch, which `make` wraps.
    ///
    /// # Errors
    /// The first member that does not fit the schema.
    pub fn branch<T: Fields, U>(&mut self, make: fn(T) -> U) -> Result<U, Invalid> {
        T::take(self).map(make)
    }

    /// Whether member `name` is there and was not taken.
    pub fn has(&self, name: &str) -> bool {
        self.left
            .iter()
            .any(|(key, value)| key == name && value.is_some())
    }

    /// Says that nothing more is expected.
    ///
    /// # Errors
    /// When a member is left and unknown members are refused.
    pub fn end(self) -> Result<(), Invalid> {
        if self.context.unknown == Unknown::Ignore {
            return Ok(());
        }
        match self.left.into_iter().find(|(_, value)| value.is_some()) {
            Some((name, _)) => Err(Invalid::unexpected(name)),
            None => Ok(()),
        }
    }
}

/// A member by its type: what may be left out is an `Option`.
pub trait Member: Sized {
    /// Takes it out of `members`.
    ///
    /// # Errors
    /// When it is missing or does not fit.
    fn member(members: &mut Members, name: &'static str) -> Result<Self, Invalid>;
}

impl<T: Wire> Member for T {
    fn member(members: &mut Members, name: &'static str) -> Result<Self, Invalid> {
        members.req(name)
    }
}

impl<T: Wire> Member for Option<T> {
    fn member(members: &mut Members, name: &'static str) -> Result<Self, Invalid> {
        members.opt(name)
    }
}

/// A tuple of `N` members.
pub trait Several<const N: usize>: Sized {
    /// Takes them out of `members` by their names.
    ///
    /// # Errors
    /// The first member that is missing or does not fit.
    fn take(members: &mut Members, names: [&'static str; N]) -> Result<Self, Invalid>;
}

macro_rules! several {
    ($($count:literal: $($ty:ident $name:ident),*;)*) => {$(
        impl<$($ty: Member),*> Several<$count> for ($($ty,)*) {
            fn take(members: &mut Members, [$($name),*]: [&'static str; $count]) -> Result<Self, Invalid> {
                Ok(($($ty::member(members, $name)?,)*))
            }
        }
    )*};
}

several! {
    2: A a, B b;
    3: A a, B b, C c;
    4: A a, B b, C c, D d;
    5: A a, B b, C c, D d, E e;
    6: A a, B b, C c, D d, E e, F f;
}

/// What does not fit the schema, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalid {
    /// From the innermost out.
    path: Vec<Step>,
    reason: Reason,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Known(&'static str),
    Unknown(String),
    Index(usize),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Reason {
    Missing,
    Mistyped(&'static str),
    /// A value of a JSON type that no branch of an anonymous union has.
    NoBranch(&'static str),
    /// Not a number that fits 64 bits.
    NotUnsigned,
    /// A number that does not fit the member's integer type.
    OutOfRange(&'static str),
    NotAName(String),
    Unexpected,
    TooDeep,
}

impl Invalid {
    fn new(reason: Reason) -> Self {
        Self {
            path: Vec::new(),
            reason,
        }
    }

    fn missing() -> Self {
        Self::new(Reason::Missing)
    }

    fn unexpected(name: String) -> Self {
        Self {
            path: vec![Step::Unknown(name)],
            reason: Reason::Unexpected,
        }
    }

    /// A value of another JSON type than `expected`.
    pub fn mistyped(expected: &'static str) -> Self {
        Self::new(Reason::Mistyped(expected))
    }

    /// A value of a JSON type that no branch of anonymous union `name` has.
    pub fn no_branch(name: &'static str) -> Self {
        Self::new(Reason::NoBranch(name))
    }

    /// Where it is, from the root of what was read, as in `children[1].filename`; empty at the
    /// root itself. Texts name the last member alone where QEMU's do.
    pub fn path(&self) -> String {
        if self.path.is_empty() {
            String::new()
        } else {
            FullPath(&self.path).to_string()
        }
    }

    /// The same error, seen from the object that has it at member `name`.
    #[must_use]
    fn at(mut self, name: &'static str) -> Self {
        self.path.push(Step::Known(name));
        self
    }

    fn at_index(mut self, index: usize) -> Self {
        self.path.push(Step::Index(index));
        self
    }

    fn last_name(&self) -> &str {
        match self.path.first() {
            Some(Step::Known(name)) => name,
            Some(Step::Unknown(name)) => name,
            // QEMU has no name for an element of an array.
            Some(Step::Index(_)) | None => "null",
        }
    }
}

/// The path from the root, as in `children[1].filename`.
struct FullPath<'a>(&'a [Step]);

impl fmt::Display for FullPath<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("null");
        }
        for (index, step) in self.0.iter().rev().enumerate() {
            let dot = if index == 0 { "" } else { "." };
            match step {
                Step::Known(name) => write!(f, "{dot}{name}")?,
                Step::Unknown(name) => write!(f, "{dot}{name}")?,
                Step::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = FullPath(&self.path);
        match &self.reason {
            Reason::Missing => write!(f, "Parameter '{path}' is missing"),
            Reason::Mistyped(expected) => {
                write!(
                    f,
                    "Invalid parameter type for '{path}', expected: {expected}"
                )
            }
            Reason::NoBranch(name) => {
                let last = self.last_name();
                write!(f, "Invalid parameter type for '{last}', expected: {name}")
            }
            Reason::NotUnsigned => write!(f, "Parameter '{path}' expects uint64"),
            Reason::OutOfRange(name) => {
                write!(f, "Parameter '{}' expects {name}", self.last_name())
            }
            Reason::NotAName(value) => {
                write!(
                    f,
                    "Parameter '{}' does not accept value '{value}'",
                    self.last_name()
                )
            }
            Reason::Unexpected => write!(f, "Parameter '{path}' is unexpected"),
            Reason::TooDeep => {
                let last = self.last_name();
                write!(
                    f,
                    "Parameter '{last}' is nested deeper than {MAX_DEPTH} levels"
                )
            }
        }
    }
}

impl std::error::Error for Invalid {}

impl From<Invalid> for Error {
    fn from(invalid: Invalid) -> Self {
        Error::generic(invalid.to_string())
    }
}

/// A string that is not a value of the enum it was read as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownName(pub String);

impl fmt::Display for UnknownName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "there is no value '{}'", self.0)
    }
}

impl std::error::Error for UnknownName {}

/// Reads an enum: the one of `all` whose name is `value`.
///
/// # Errors
/// When it is not a string, or none has this name.
pub fn read_name<T: Copy>(
    value: Value,
    context: Context,
    all: &[T],
    name: fn(T) -> &'static str,
) -> Result<T, Invalid> {
    let text = String::read(value, context)?;
    find_name(&text, all, name).map_err(|_| Invalid::new(Reason::NotAName(text)))
}

/// The one of `all` whose name is `text`.
///
/// # Errors
/// When none has this name.
pub fn find_name<T: Copy>(
    text: &str,
    all: &[T],
    name: fn(T) -> &'static str,
) -> Result<T, UnknownName> {
    let found = all.iter().copied().find(|&value| name(value) == text);
    found.ok_or_else(|| UnknownName(text.to_owned()))
}

/// Reads an enum that keeps names which the schema does not have: the one of `all` whose name is
/// `value`, else `other` of it, where unknown names are not refused.
///
/// # Errors
/// When it is not a string, or none has this name and that is refused.
pub fn read_open_name<T: Clone>(
    value: Value,
    context: Context,
    all: &[T],
    name: fn(&T) -> &str,
    other: fn(String) -> T,
) -> Result<T, Invalid> {
    let text = String::read(value, context)?;
    match (find_open_name(&text, all, name), context.unknown) {
        (Ok(found), _) => Ok(found),
        (Err(_), Unknown::Ignore) => Ok(other(text)),
        (Err(_), Unknown::Refuse) => Err(Invalid::new(Reason::NotAName(text))),
    }
}

/// The one of `all` whose name is `text`.
///
/// # Errors
/// When none has this name.
pub fn find_open_name<T: Clone>(
    text: &str,
    all: &[T],
    name: fn(&T) -> &str,
) -> Result<T, UnknownName> {
    let found = all.iter().find(|value| name(value) == text);
    found.cloned().ok_or_else(|| UnknownName(text.to_owned()))
}

/// JSON's `null`, as a type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Null;

impl Wire for Null {
    fn read(value: Value, _: Context) -> Result<Self, Invalid> {
        match value {
            Value::Null => Ok(Self),
            _ => Err(Invalid::mistyped("null")),
        }
    }

    fn encode(&self) -> Value {
        Value::Null
    }
}

impl Fields for () {
    fn take(_: &mut Members) -> Result<Self, Invalid> {
        Ok(())
    }

    fn put(&self, _: &mut Object) {}
}

impl Wire for Value {
    fn read(value: Value, _: Context) -> Result<Self, Invalid> {
        Ok(value)
    }

    fn encode(&self) -> Value {
        self.clone()
    }
}

/// Whatever members there are.
impl Fields for Object {
    fn take(members: &mut Members) -> Result<Self, Invalid> {
        let mut object = Self::new();
        for (name, value) in members.left.drain(..) {
            if let Some(value) = value {
                object.push(name, value);
            }
        }
        Ok(object)
    }

    fn put(&self, object: &mut Object) {
        for (name, value) in self.iter() {
            object.insert(name, value.clone());
        }
    }
}

impl Wire for bool {
    fn read(value: Value, _: Context) -> Result<Self, Invalid> {
        match value {
            Value::Bool(flag) => Ok(flag),
            _ => Err(Invalid::mistyped("boolean")),
        }
    }

    fn encode(&self) -> Value {
        Value::Bool(*self)
    }
}

impl Wire for String {
    fn read(value: Value, _: Context) -> Result<Self, Invalid> {
        match value {
            Value::String(text) => Ok(text),
            _ => Err(Invalid::mistyped("string")),
        }
    }

    fn encode(&self) -> Value {
        Value::String(self.clone())
    }
}

impl Wire for f64 {
    #[expect(
        clippy::cast_precision_loss,
        reason = "a JSON number is read as the nearest double"
    )]
    fn read(value: Value, _: Context) -> Result<Self, Invalid> {
        match value {
            Value::Float(number) => Ok(number),
            Value::Int(number) => Ok(number as f64),
            Value::Uint(number) => Ok(number as f64),
            _ => Err(Invalid::mistyped("number")),
        }
    }

    fn encode(&self) -> Value {
        Value::Float(*self)
    }
}

impl Wire for i64 {
    fn read(value: Value, _: Context) -> Result<Self, Invalid> {
        match value {
            Value::Int(number) => Ok(number),
            _ => Err(Invalid::mistyped("integer")),
        }
    }

    fn encode(&self) -> Value {
        Value::Int(*self)
    }
}

impl Wire for u64 {
    fn read(value: Value, _: Context) -> Result<Self, Invalid> {
        match value {
            // A negative number wraps: QEMU keeps this for old clients.
            Value::Int(number) => Ok(number.cast_unsigned()),
            Value::Uint(number) => Ok(number),
            _ => Err(Invalid::new(Reason::NotUnsigned)),
        }
    }

    fn encode(&self) -> Value {
        Value::from(*self)
    }
}

macro_rules! narrow {
    ($($ty:ty, $wide:ty, $name:literal;)*) => {$(
        impl Wire for $ty {
            fn read(value: Value, context: Context) -> Result<Self, Invalid> {
                let wide = <$wide>::read(value, context)?;
                <Self as std::convert::TryFrom<$wide>>::try_from(wide).map_err(|_| Invalid::new(Reason::OutOfRange($name)))
            }

            fn encode(&self) -> Value {
                Value::Int(i64::from(*self))
            }
        }
    )*};
}

narrow! {
    i8, i64, "int8_t";
    i16, i64, "int16_t";
    i32, i64, "int32_t";
    u8, u64, "uint8_t";
    u16, u64, "uint16_t";
    u32, u64, "uint32_t";
}

impl<T: Wire> Wire for Vec<T> {
    fn read(value: Value, context: Context) -> Result<Self, Invalid> {
        let Value::Array(items) = value else {
            return Err(Invalid::mistyped("array"));
        };
        let context = context.deeper()?;
        let item = |(index, item)| T::read(item, context).map_err(|error| error.at_index(index));
        items.into_iter().enumerate().map(item).collect()
    }

    fn encode(&self) -> Value {
        Value::Array(self.iter().map(Wire::encode).collect())
    }
}

impl<T: Fields> Fields for Box<T> {
    fn take(members: &mut Members) -> Result<Self, Invalid> {
        T::take(members).map(Self::new)
    }

    fn put(&self, object: &mut Object) {
        T::put(self, object);
    }
}

impl Object {
    /// Adds member `name`, which is not there yet.
    pub fn put<T: Wire>(&mut self, name: &'static str, value: &T) {
        self.push(name, value.encode());
    }

    /// Adds member `name`, which is not there yet, if there is a value.
    pub fn put_opt<T: Wire>(&mut self, name: &'static str, value: &Option<T>) {
        if let Some(value) = value {
            self.put(name, value);
        }
    }
}
