/// Every type of the schema.
#[allow(clippy::all, clippy::allow_attributes, deprecated, unused)]
pub mod types {
    /// From `collisions.json`.
    mod collisions {
        use super::super::runtime;

        /// `String`.
        #[derive(Clone, PartialEq)]
        #[non_exhaustive]
        pub struct String_ {
            /// `self`.
            pub self_: String,
            /// `type`.
            pub r#type: i64,
            /// `gen`.
            pub r#gen: Option<bool>,
            /// `new`.
            pub new: Option<String>,
            /// `clone`.
            pub clone: Option<String>,
        }

        impl String_ {
            /// One with its required members alone.
            pub fn new(self_: impl Into<String>, r#type: i64) -> Self {
                Self { self_: self_.into(), r#type, r#gen: None, new: None, clone: None }
            }

            /// Sets `gen`.
            #[must_use]
            pub fn r#gen(mut self, value: bool) -> Self {
                self.r#gen = Some(value);
                self
            }

            /// Sets `new`.
            #[must_use]
            pub fn new_(mut self, value: impl Into<String>) -> Self {
                self.new = Some(value.into());
                self
            }

            /// Sets `clone`.
            #[must_use]
            pub fn clone_(mut self, value: impl Into<String>) -> Self {
                self.clone = Some(value.into());
                self
            }
        }

        impl std::fmt::Debug for String_ {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                runtime::debug("String_", self, f)
            }
        }

        impl runtime::Fields for String_ {
            fn take(members: &mut runtime::Members) -> Result<Self, runtime::Invalid> {
                let (self_, r#type, r#gen, new, clone) = members.take([
                    "self",
                    "type",
                    "gen",
                    "new",
                    "clone",
                ])?;
                Ok(Self { self_, r#type, r#gen, new, clone })
            }

            fn put(&self, object: &mut runtime::Object) {
                object.put("self", &self.self_);
                object.put("type", &self.r#type);
                object.put_opt("gen", &self.r#gen);
                object.put_opt("new", &self.new);
                object.put_opt("clone", &self.clone);
            }
        }

        /// `Option`.
        #[derive(Clone, PartialEq)]
        #[non_exhaustive]
        pub struct Option_ {
            /// `foo-bar`.
            pub foo_bar: i64,
            /// `foo_bar`.
            pub foo_bar2: i64,
            /// `members`.
            pub members: Option<Box<Vec_>>,
            /// `object`.
            pub object: Option<Box_>,
        }

        impl Option_ {
            /// One with its required members alone.
            pub fn new(foo_bar: i64, foo_bar2: i64) -> Self {
                Self { foo_bar, foo_bar2, members: None, object: None }
            }

            /// Sets `members`.
            #[must_use]
            pub fn members(mut self, value: impl Into<Box<Vec_>>) -> Self {
                self.members = Some(value.into());
                self
            }

            /// Sets `object`.
            #[must_use]
            pub fn object(mut self, value: Box_) -> Self {
                self.object = Some(value);
                self
            }
        }

        impl std::fmt::Debug for Option_ {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                runtime::debug("Option_", self, f)
            }
        }

        impl runtime::Fields for Option_ {
            fn take(members_: &mut runtime::Members) -> Result<Self, runtime::Invalid> {
                let (foo_bar, foo_bar2, members, object) = members_.take([
                    "foo-bar",
                    "foo_bar",
                    "members",
                    "object",
                ])?;
                Ok(Self { foo_bar, foo_bar2, members, object })
            }

            fn put(&self, object: &mut runtime::Object) {
                object.put("foo-bar", &self.foo_bar);
                object.put("foo_bar", &self.foo_bar2);
                object.put_opt("members", &self.members);
                object.put_opt("object", &self.object);
            }
        }

        /// `Vec`.
        #[derive(Clone, PartialEq)]
        #[non_exhaustive]
        pub struct Vec_ {
            /// `2nd`.
            pub _2nd: String,
            /// `a.b`.
            pub a_b: Option<String>,
            /// `async`.
            pub r#async: Option<Option_>,
        }

        impl Vec_ {
            /// One with its required members alone.
            pub fn new(_2nd: impl Into<String>) -> Self {
                Self { _2nd: _2nd.into(), a_b: None, r#async: None }
            }

            /// Sets `a.b`.
            #[must_use]
            pub fn a_b(mut self, value: impl Into<String>) -> Self {
                self.a_b = Some(value.into());
                self
            }

            /// Sets `async`.
            #[must_use]
            pub fn r#async(mut self, value: Option_) -> Self {
                self.r#async = Some(value);
                self
            }
        }

        impl std::fmt::Debug for Vec_ {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                runtime::debug("Vec_", self, f)
            }
        }

        impl runtime::Fields for Vec_ {
            fn take(members: &mut runtime::Members) -> Result<Self, runtime::Invalid> {
                let (_2nd, a_b, r#async) = members.take(["2nd", "a.b", "async"])?;
                Ok(Self { _2nd, a_b, r#async })
            }

            fn put(&self, object: &mut runtime::Object) {
                object.put("2nd", &self._2nd);
                object.put_opt("a.b", &self.a_b);
                object.put_opt("async", &self.r#async);
            }
        }

        /// `Box`.
        #[derive(Clone, PartialEq)]
        #[non_exhaustive]
        pub struct Box_ {
            /// `self`.
            pub self_: String,
            /// `type`.
            pub r#type: i64,
            /// `gen`.
            pub r#gen: Option<bool>,
            /// `new`.
            pub new: Option<String>,
            /// `clone`.
            pub clone: Option<String>,
            /// `value`.
            pub value: String,
        }

        impl Box_ {
            /// One with its required members alone.
            pub fn new(self_: impl Into<String>, r#type: i64, value: impl Into<String>) -> Self {
                Self {
                    self_: self_.into(),
                    r#type,
                    value: value.into(),
                    r#gen: None,
                    new: None,
                    clone: None,
                }
            }

            /// Sets `gen`.
            #[must_use]
            pub fn r#gen(mut self, value: bool) -> Self {
                self.r#gen = Some(value);
                self
            }

            /// Sets `new`.
            #[must_use]
            pub fn new_(mut self, value: impl Into<String>) -> Self {
                self.new = Some(value.into());
                self
            }

            /// Sets `clone`.
            #[must_use]
            pub fn clone_(mut self, value: impl Into<String>) -> Self {
                self.clone = Some(value.into());
                self
            }
        }

        impl std::fmt::Debug for Box_ {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                runtime::debug("Box_", self, f)
            }
        }

        impl runtime::Fields for Box_ {
            fn take(members: &mut runtime::Members) -> Result<Self, runtime::Invalid> {
                let (self_, r#type, r#gen, new, clone, value) = members.take([
                    "self",
                    "type",
                    "gen",
                    "new",
                    "clone",
                    "value",
                ])?;
                Ok(Self { self_, r#type, r#gen, new, clone, value })
            }

            fn put(&self, object: &mut runtime::Object) {
                object.put("self", &self.self_);
                object.put("type", &self.r#type);
                object.put_opt("gen", &self.r#gen);
                object.put_opt("new", &self.new);
                object.put_opt("clone", &self.clone);
                object.put("value", &self.value);
            }
        }

        /// `Result`.
        #[derive(Clone, PartialEq)]
        #[non_exhaustive]
        pub struct Result_ {
            /// `context`.
            pub context: Self_,
        }

        impl Result_ {
            /// One with its required members alone.
            pub fn new(context: Self_) -> Self {
                Self { context }
            }
        }

        impl std::fmt::Debug for Result_ {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                runtime::debug("Result_", self, f)
            }
        }

        impl runtime::Fields for Result_ {
            fn take(members: &mut runtime::Members) -> Result<Self, runtime::Invalid> {
                Ok(Self { context: members.req("context")? })
            }

            fn put(&self, object: &mut runtime::Object) {
                object.put("context", &self.context);
            }
        }

        /// `Self`.
        #[derive(Clone, PartialEq, Default)]
        #[non_exhaustive]
        pub struct Self_ {
            /// `crate`.
            pub crate_: Option<String>,
            /// `super`.
            pub super_: Option<String>,
            /// `try`.
            pub r#try: Option<String>,
            /// `dyn`.
            pub r#dyn: Option<String>,
        }

        impl Self_ {
            /// One with its required members alone.
            pub fn new() -> Self {
                Self { crate_: None, super_: None, r#try: None, r#dyn: None }
            }

            /// Sets `crate`.
            #[must_use]
            pub fn crate_(mut self, value: impl Into<String>) -> Self {
                self.crate_ = Some(value.into());
                self
            }

            /// Sets `super`.
            #[must_use]
            pub fn super_(mut self, value: impl Into<String>) -> Self {
                self.super_ = Some(value.into());
                self
            }

            /// Sets `try`.
            #[must_use]
            pub fn r#try(mut self, value: impl Into<String>) -> Self {
                self.r#try = Some(value.into());
                self
            }

            /// Sets `dyn`.
            #[must_use]
            pub fn r#dyn(mut self, value: impl Into<String>) -> Self {
                self.r#dyn = Some(value.into());
                self
            }
        }

        impl std::fmt::Debug for Self_ {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                runtime::debug("Self_", self, f)
            }
        }

        impl runtime::Fields for Self_ {
            fn take(members: &mut runtime::Members) -> Result<Self, runtime::Invalid> {
                let (crate_, super_, r#try, r#dyn) = members.take(["crate", "super", "try", "dyn"])?;
                Ok(Self { crate_, super_, r#try, r#dyn })
            }

            fn put(&self, object: &mut runtime::Object) {
                object.put_opt("crate", &self.crate_);
                object.put_opt("super", &self.super_);
                object.put_opt("try", &self.r#try);
                object.put_opt("dyn", &self.r#dyn);
            }
        }

        /// `foo`.
        #[derive(Clone, PartialEq)]
        #[non_exhaustive]
        pub struct Foo {
            /// `a`.
            pub a: String,
        }

        impl Foo {
            /// One with its required members alone.
            pub fn new(a: impl Into<String>) -> Self {
                Self { a: a.into() }
            }
        }

        impl std::fmt::Debug for Foo {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                runtime::debug("Foo", self, f)
            }
        }

        impl runtime::Fields for Foo {
            fn take(members: &mut runtime::Members) -> Result<Self, runtime::Invalid> {
                Ok(Self { a: members.req("a")? })
            }

            fn put(&self, object: &mut runtime::Object) {
                object.put("a", &self.a);
            }
        }

        /// `Foo`.
        #[derive(Clone, PartialEq)]
        #[non_exhaustive]
        pub struct Foo2 {
            /// `b`.
            pub b: String,
        }

        impl Foo2 {
            /// One with its required members alone.
            pub fn new(b: impl Into<String>) -> Self {
                Self { b: b.into() }
            }
        }

        impl std::fmt::Debug for Foo2 {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                runtime::debug("Foo2", self, f)
            }
        }

        impl runtime::Fields for Foo2 {
            fn take(members: &mut runtime::Members) -> Result<Self, runtime::Invalid> {
                Ok(Self { b: members.req("b")? })
            }

            fn put(&self, object: &mut runtime::Object) {
                object.put("b", &self.b);
            }
        }

        /// `foo2`.
        #[derive(Clone, PartialEq)]
        #[non_exhaustive]
        pub struct Foo2_2 {
            /// `c`.
            pub c: Foo2,
        }

        impl Foo2_2 {
            /// One with its required members alone.
            pub fn new(c: Foo2) -> Self {
                Self { c }
            }
        }

        impl std::fmt::Debug for Foo2_2 {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                runtime::debug("Foo2_2", self, f)
            }
        }

        impl runtime::Fields for Foo2_2 {
            fn take(members: &mut runtime::Members) -> Result<Self, runtime::Invalid> {
                Ok(Self { c: members.req("c")? })
            }

            fn put(&self, object: &mut runtime::Object) {
                object.put("c", &self.c);
            }
        }

        /// `TagBranch`.
        #[derive(Clone, PartialEq)]
        #[non_exhaustive]
        pub struct TagBranch {
            /// `d`.
            pub d: Foo,
        }

        impl TagBranch {
            /// One with its required members alone.
            pub fn new(d: Foo) -> Self {
                Self { d }
            }
        }

        impl std::fmt::Debug for TagBranch {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                runtime::debug("TagBranch", self, f)
            }
        }

        impl runtime::Fields for TagBranch {
            fn take(members: &mut runtime::Members) -> Result<Self, runtime::Invalid> {
                Ok(Self { d: members.req("d")? })
            }

            fn put(&self, object: &mut runtime::Object) {
                object.put("d", &self.d);
            }
        }

        /// `Kind`.
        #[derive(Debug, Clone, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Kind {
            /// `self`.
            Self_,
            /// `Self`.
            Self2,
            /// `none`.
            None,
            /// `some`.
            Some,
            /// `ok`.
            Ok,
            /// `other`.
            Other,
            /// `1.2`.
            _1_2,
            /// `12`.
            _12,
            /// `1-2`.
            _1_2_2,
            /// `a+b`.
            APlusB,
            /// `a-b`.
            AB,
            /// `a_b`.
            AB2,
            /// One that the schema does not have, by its name on the wire.
            Unknown(String),
        }

        impl Kind {
            /// Every value of the schema, in its order.
            pub const VARIANTS: &'static [Self] = &[
                Self::Self_,
                Self::Self2,
                Self::None,
                Self::Some,
                Self::Ok,
                Self::Other,
                Self::_1_2,
                Self::_12,
                Self::_1_2_2,
                Self::APlusB,
                Self::AB,
                Self::AB2,
            ];

            /// Its name on the wire.
            pub fn as_str(&self) -> &str {
                match self {
                    Self::Self_ => "self",
                    Self::Self2 => "Self",
                    Self::None => "none",
                    Self::Some => "some",
                    Self::Ok => "ok",
                    Self::Other => "other",
                    Self::_1_2 => "1.2",
                    Self::_12 => "12",
                    Self::_1_2_2 => "1-2",
                    Self::APlusB => "a+b",
                    Self::AB => "a-b",
                    Self::AB2 => "a_b",
                    Self::Unknown(name) => name,
                }
            }
        }

        impl std::fmt::Display for Kind {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl std::str::FromStr for Kind {
            type Err = runtime::UnknownName;

            fn from_str(text: &str) -> Result<Self, runtime::UnknownName> {
                runtime::find_open_name(text, Self::VARIANTS, Self::as_str)
            }
        }

        impl runtime::Wire for Kind {
            fn read(
                value: runtime::Value,
                context: runtime::Context,
            ) -> Result<Self, runtime::Invalid> {
                runtime::read_open_name(value, context, Self::VARIANTS, Self::as_str, Self::Unknown)
            }

            fn encode(&self) -> runtime::Value {
                runtime::Value::from(self.as_str())
            }
        }

        /// `Base`.
        #[derive(Clone, PartialEq)]
        #[non_exhaustive]
        pub struct Base {
            /// `members`.
            pub members: Kind,
            /// `kind`.
            pub kind: Option<String>,
        }

        impl Base {
            /// One with its required members alone.
            pub fn new(members: Kind) -> Self {
                Self { members, kind: None }
            }

            /// Sets `kind`.
            #[must_use]
            pub fn kind_(mut self, value: impl Into<String>) -> Self {
                self.kind = Some(value.into());
                self
            }
        }

        impl std::fmt::Debug for Base {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                runtime::debug("Base", self, f)
            }
        }

        impl runtime::Fields for Base {
            fn take(members_: &mut runtime::Members) -> Result<Self, runtime::Invalid> {
                let (members, kind) = members_.take(["members", "kind"])?;
                Ok(Self { members, kind })
            }

            fn put(&self, object: &mut runtime::Object) {
                object.put("members", &self.members);
                object.put_opt("kind", &self.kind);
            }
        }

        /// `Tag`.
        #[derive(Clone, PartialEq)]
        #[non_exhaustive]
        pub struct Tag {
            /// `members`.
            pub members: TagBranch2,
            /// `kind`.
            pub kind: Option<String>,
        }

        impl Tag {
            /// One with its required members alone.
            pub fn new(members: TagBranch2) -> Self {
                Self { members, kind: None }
            }

            /// Sets `kind`.
            #[must_use]
            pub fn kind_(mut self, value: impl Into<String>) -> Self {
                self.kind = Some(value.into());
                self
            }
        }

        impl Tag {
            /// The value of `members`.
            pub fn kind(&self) -> Kind {
                self.members.kind()
            }
        }

        impl std::fmt::Debug for Tag {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                runtime::debug("Tag", self, f)
            }
        }

        impl runtime::Fields for Tag {
            fn take(members_: &mut runtime::Members) -> Result<Self, runtime::Invalid> {
                let (members, kind) = members_.take(["members", "kind"])?;
                let members = TagBranch2::take(members, members_)?;
                Ok(Self { members, kind })
            }

            fn put(&self, object: &mut runtime::Object) {
                object.put("members", &self.members.kind());
                object.put_opt("kind", &self.kind);
                self.members.put(object);
            }
        }

        /// What `Tag` holds besides its base, by `members`.
        #[derive(Debug, Clone, PartialEq)]
        #[non_exhaustive]
        pub enum TagBranch2 {
            /// `self`.
            Self_(Foo),
            /// `Self`.
            Self2,
            /// `none`.
            None,
            /// `some`.
            Some,
            /// `ok`.
            Ok,
            /// `other`.
            Other(TagBranch),
            /// `1.2`.
            _1_2,
            /// `12`.
            _12,
            /// `1-2`.
            _1_2_2,
            /// `a+b`.
            APlusB,
            /// `a-b`.
            AB,
            /// `a_b`.
            AB2,
            /// One that the schema does not have.
            Unknown {
                /// The value of the discriminator.
                tag: String,
                /// The members that are not the base's.
                members: runtime::Object,
            },
        }

        impl TagBranch2 {
            /// The value of `members`.
            pub fn kind(&self) -> Kind {
                match self {
                    Self::Self_(_) => Kind::Self_,
                    Self::Self2 => Kind::Self2,
                    Self::None => Kind::None,
                    Self::Some => Kind::Some,
                    Self::Ok => Kind::Ok,
                    Self::Other(_) => Kind::Other,
                    Self::_1_2 => Kind::_1_2,
                    Self::_12 => Kind::_12,
                    Self::_1_2_2 => Kind::_1_2_2,
                    Self::APlusB => Kind::APlusB,
                    Self::AB => Kind::AB,
                    Self::AB2 => Kind::AB2,
                    Self::Unknown { tag, .. } => Kind::Unknown(tag.clone()),
                }
            }

            fn take(tag: Kind, members: &mut runtime::Members) -> Result<Self, runtime::Invalid> {
                match tag {
                    Kind::Self_ => members.branch(Self::Self_),
                    Kind::Self2 => Ok(Self::Self2),
                    Kind::None => Ok(Self::None),
                    Kind::Some => Ok(Self::Some),
                    Kind::Ok => Ok(Self::Ok),
                    Kind::Other => members.branch(Self::Other),
                    Kind::_1_2 => Ok(Self::_1_2),
                    Kind::_12 => Ok(Self::_12),
                    Kind::_1_2_2 => Ok(Self::_1_2_2),
                    Kind::APlusB => Ok(Self::APlusB),
                    Kind::AB => Ok(Self::AB),
                    Kind::AB2 => Ok(Self::AB2),
                    Kind::Unknown(tag) => {
                        let members = runtime::Fields::take(members)?;
                        Ok(Self::Unknown { tag, members })
                    },
                }
            }

            fn put(&self, object: &mut runtime::Object) {
                match self {
                    Self::Self_(branch) => runtime::Fields::put(branch, object),
                    Self::Self2 => {},
                    Self::None => {},
                    Self::Some => {},
                    Self::Ok => {},
                    Self::Other(branch) => runtime::Fields::put(branch, object),
                    Self::_1_2 => {},
                    Self::_12 => {},
                    Self::_1_2_2 => {},
                    Self::APlusB => {},
                    Self::AB => {},
                    Self::AB2 => {},
                    Self::Unknown { members, .. } => runtime::Fields::put(members, object),
                }
            }
        }

        /// `Wire`.
        #[derive(Clone, PartialEq)]
        #[non_exhaustive]
        pub struct Wire {
            /// `value`.
            pub value: Value,
        }

        impl Wire {
            /// One with its required members alone.
            pub fn new(value: Value) -> Self {
                Self { value }
            }
        }

        impl std::fmt::Debug for Wire {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                runtime::debug("Wire", self, f)
            }
        }

        impl runtime::Fields for Wire {
            fn take(members: &mut runtime::Members) -> Result<Self, runtime::Invalid> {
                Ok(Self { value: members.req("value")? })
            }

            fn put(&self, object: &mut runtime::Object) {
                object.put("value", &self.value);
            }
        }

        /// `Value`.
        #[derive(Clone, PartialEq)]
        #[non_exhaustive]
        pub struct Value {
            /// `x`.
            pub x: Fields,
        }

        impl Value {
            /// One with its required members alone.
            pub fn new(x: Fields) -> Self {
                Self { x }
            }
        }

        impl std::fmt::Debug for Value {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                runtime::debug("Value", self, f)
            }
        }

        impl runtime::Fields for Value {
            fn take(members: &mut runtime::Members) -> Result<Self, runtime::Invalid> {
                Ok(Self { x: members.req("x")? })
            }

            fn put(&self, object: &mut runtime::Object) {
                object.put("x", &self.x);
            }
        }

        /// `Fields`.
        #[derive(Clone, PartialEq)]
        #[non_exhaustive]
        pub struct Fields {
            /// `y`.
            pub y: Vec<Kind>,
        }

        impl Fields {
            /// One with its required members alone.
            pub fn new(y: Vec<Kind>) -> Self {
                Self { y }
            }
        }

        impl std::fmt::Debug for Fields {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                runtime::debug("Fields", self, f)
            }
        }

        impl runtime::Fields for Fields {
            fn take(members: &mut runtime::Members) -> Result<Self, runtime::Invalid> {
                Ok(Self { y: members.req("y")? })
            }

            fn put(&self, object: &mut runtime::Object) {
                object.put("y", &self.y);
            }
        }
    }

    pub use self::collisions::*;
}

/// Every command of the schema: its arguments, as a type.
#[allow(clippy::all, clippy::allow_attributes, deprecated, unused)]
pub mod commands {
    /// From `collisions.json`.
    mod collisions {
        use super::super::runtime;
        use super::super::types;

        /// `string`.
        #[derive(Clone, PartialEq)]
        #[non_exhaustive]
        pub struct String_ {
            /// `arguments`.
            pub arguments: String,
            /// `server`.
            pub server: Option<String>,
        }

        impl String_ {
            /// One with its required members alone.
            pub fn new(arguments: impl Into<String>) -> Self {
                Self { arguments: arguments.into(), server: None }
            }

            /// Sets `server`.
            #[must_use]
            pub fn server(mut self, value: impl Into<String>) -> Self {
                self.server = Some(value.into());
                self
            }
        }

        impl std::fmt::Debug for String_ {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                runtime::debug("String_", self, f)
            }
        }

        impl runtime::Fields for String_ {
            fn take(members: &mut runtime::Members) -> Result<Self, runtime::Invalid> {
                let (arguments, server) = members.take(["arguments", "server"])?;
                Ok(Self { arguments, server })
            }

            fn put(&self, object: &mut runtime::Object) {
                object.put("arguments", &self.arguments);
                object.put_opt("server", &self.server);
            }
        }

        impl runtime::Command for String_ {
            const NAME: &'static str = "string";
            const ALLOW_OOB: bool = false;

            type Ok = types::String_;
        }

        /// `type`.
        #[derive(Clone, PartialEq)]
        pub struct Type(
            /// Its members.
            pub types::Option_,
        );

        impl std::fmt::Debug for Type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                runtime::debug("Type", self, f)
            }
        }

        impl runtime::Fields for Type {
            fn take(members: &mut runtime::Members) -> Result<Self, runtime::Invalid> {
                runtime::Fields::take(members).map(Self)
            }

            fn put(&self, object: &mut runtime::Object) {
                runtime::Fields::put(&self.0, object);
            }
        }

        impl runtime::Command for Type {
            const NAME: &'static str = "type";
            const ALLOW_OOB: bool = false;

            type Ok = Vec<types::Vec_>;
        }

        /// `Type`.
        #[derive(Clone, PartialEq, Default)]
        #[non_exhaustive]
        pub struct Type2 {}

        impl Type2 {
            /// One with its required members alone.
            pub fn new() -> Self {
                Self {}
            }
        }

        impl std::fmt::Debug for Type2 {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                runtime::debug("Type2", self, f)
            }
        }

        impl runtime::Fields for Type2 {
            fn take(_: &mut runtime::Members) -> Result<Self, runtime::Invalid> {
                Ok(Self {})
            }

            fn put(&self, _: &mut runtime::Object) {}
        }

        impl runtime::Command for Type2 {
            const NAME: &'static str = "Type";
            const ALLOW_OOB: bool = false;

            type Ok = ();
        }
    }

    pub use self::collisions::*;
}

/// Every event of the schema: its data, as a type.
#[allow(clippy::all, clippy::allow_attributes, deprecated, unused)]
pub mod events {
    /// From `collisions.json`.
    mod collisions {
        use super::super::runtime;
        use super::super::types;

        /// `EVENT`.
        #[derive(Clone, PartialEq)]
        #[non_exhaustive]
        pub struct Event {
            /// `name`.
            pub name: String,
            /// `data`.
            pub data: Option<types::Result_>,
        }

        impl Event {
            /// One with its required members alone.
            pub fn new(name: impl Into<String>) -> Self {
                Self { name: name.into(), data: None }
            }

            /// Sets `data`.
            #[must_use]
            pub fn data(mut self, value: types::Result_) -> Self {
                self.data = Some(value);
                self
            }
        }

        impl std::fmt::Debug for Event {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                runtime::debug("Event", self, f)
            }
        }

        impl runtime::Fields for Event {
            fn take(members: &mut runtime::Members) -> Result<Self, runtime::Invalid> {
                let (name, data) = members.take(["name", "data"])?;
                Ok(Self { name, data })
            }

            fn put(&self, object: &mut runtime::Object) {
                object.put("name", &self.name);
                object.put_opt("data", &self.data);
            }
        }

        /// `Event`.
        #[derive(Clone, PartialEq, Default)]
        #[non_exhaustive]
        pub struct Event2 {}

        impl Event2 {
            /// One with its required members alone.
            pub fn new() -> Self {
                Self {}
            }
        }

        impl std::fmt::Debug for Event2 {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                runtime::debug("Event2", self, f)
            }
        }

        impl runtime::Fields for Event2 {
            fn take(_: &mut runtime::Members) -> Result<Self, runtime::Invalid> {
                Ok(Self {})
            }

            fn put(&self, _: &mut runtime::Object) {}
        }
    }

    pub use self::collisions::*;
}

/// What a server does, a trait for each schema file.
#[allow(clippy::all, clippy::allow_attributes, deprecated, unused)]
pub mod server {
    /// From `collisions.json`.
    mod collisions {
        use super::super::runtime;
        use super::super::types;
        use super::super::commands;

        /// What a server does for the commands of `collisions.json`.
        ///
        /// A method that is not written answers that there is no such command.
        /// Write a method as `async fn`; its future is `Send` if what it holds is.
        pub trait Collisions {
            /// `string`.
            fn string(
                &self,
                arguments: commands::String_,
            ) -> impl std::future::Future<Output = Result<types::String_, runtime::Error>> {
                let _ = arguments;
                std::future::ready(Err(runtime::not_found("string")))
            }

            /// `type`.
            fn r#type(
                &self,
                arguments: commands::Type,
            ) -> impl std::future::Future<Output = Result<Vec<types::Vec_>, runtime::Error>> {
                let _ = arguments;
                std::future::ready(Err(runtime::not_found("type")))
            }

            /// `Type`.
            fn type2(
                &self,
                arguments: commands::Type2,
            ) -> impl std::future::Future<Output = Result<(), runtime::Error>> {
                let _ = arguments;
                std::future::ready(Err(runtime::not_found("Type")))
            }
        }
    }

    pub use self::collisions::*;
}

/// The schema as `query-qmp-schema` tells it.
#[allow(clippy::all, clippy::allow_attributes, deprecated, unused)]
pub mod introspect {
    use super::runtime::{Error, Value};

    /// The schema, as JSON text.
    pub const JSON: &str = r####"[
{"name": "string", "meta-type": "command", "arg-type": "0", "ret-type": "1"},
{"name": "type", "meta-type": "command", "arg-type": "2", "ret-type": "[3]"},
{"name": "Type", "meta-type": "command", "arg-type": "4", "ret-type": "4"},
{"name": "EVENT", "meta-type": "event", "arg-type": "5"},
{"name": "Event", "meta-type": "event", "arg-type": "4"},
{"name": "0", "meta-type": "object", "members": [{"name": "arguments", "type": "str"}, {"name": "server", "type": "str", "default": null}]},
{"name": "1", "meta-type": "object", "members": [{"name": "self", "type": "str"}, {"name": "type", "type": "int"}, {"name": "gen", "type": "bool", "default": null}, {"name": "new", "type": "str", "default": null}, {"name": "clone", "type": "str", "default": null}]},
{"name": "2", "meta-type": "object", "members": [{"name": "foo-bar", "type": "int"}, {"name": "foo_bar", "type": "int"}, {"name": "members", "type": "3", "default": null}, {"name": "object", "type": "6", "default": null}]},
{"name": "[3]", "meta-type": "array", "element-type": "3"},
{"name": "3", "meta-type": "object", "members": [{"name": "2nd", "type": "str"}, {"name": "a.b", "type": "str", "default": null}, {"name": "async", "type": "2", "default": null}]},
{"name": "4", "meta-type": "object", "members": []},
{"name": "5", "meta-type": "object", "members": [{"name": "name", "type": "str"}, {"name": "data", "type": "7", "default": null}]},
{"name": "str", "meta-type": "builtin", "json-type": "string"},
{"name": "int", "meta-type": "builtin", "json-type": "int"},
{"name": "bool", "meta-type": "builtin", "json-type": "boolean"},
{"name": "6", "meta-type": "object", "members": [{"name": "self", "type": "str"}, {"name": "type", "type": "int"}, {"name": "gen", "type": "bool", "default": null}, {"name": "new", "type": "str", "default": null}, {"name": "clone", "type": "str", "default": null}, {"name": "value", "type": "str"}]},
{"name": "7", "meta-type": "object", "members": [{"name": "context", "type": "8"}]},
{"name": "8", "meta-type": "object", "members": [{"name": "crate", "type": "str", "default": null}, {"name": "super", "type": "str", "default": null}, {"name": "try", "type": "str", "default": null}, {"name": "dyn", "type": "str", "default": null}]}
]"####;

    /// The schema, as a value: an array of `SchemaInfo`.
    ///
    /// # Errors
    /// None: the text is JSON.
    pub fn value() -> Result<Value, Error> {
        Value::from_json(JSON)
    }

    /// What the schema's documentation says: the name of an entry of [`value`], the name
    /// of its member or value, or nothing for the entry itself, and the text.
    pub const DOCS: &[(&str, &str, &str)] = &[];
}

/// The schema as a whole: server, events, names.
#[allow(clippy::all, clippy::allow_attributes, deprecated, unused)]
pub(crate) mod interface {
    use super::runtime;
    use super::events;
    use super::server;

    /// Every command.
    pub const COMMANDS: &runtime::Commands = &runtime::Commands::new(&[
        runtime::CommandSpec::new(2, "Type"),
        runtime::CommandSpec::new(0, "string"),
        runtime::CommandSpec::new(1, "type"),
    ]);

    /// What a server does for every command.
    pub trait Server: server::Collisions {}

    impl<T: server::Collisions> Server for T {}

    /// Checks the arguments of `command`, runs it on `server`, and gives its answer.
    ///
    /// # Errors
    /// That of the command, of its arguments, or that there is none of this name.
    pub async fn dispatch<S: Server>(
        server: &S,
        command: &str,
        arguments: runtime::Object,
    ) -> Result<runtime::Value, runtime::Error> {
        match COMMANDS.number(command)? {
            0 => runtime::run(server, arguments, server::Collisions::string).await,
            1 => runtime::run(server, arguments, server::Collisions::r#type).await,
            2 => runtime::run(server, arguments, server::Collisions::type2).await,
            _ => Err(runtime::not_found(command)),
        }
    }

    /// Answers a message, or what was wrong with it; `None` where nothing is to be
    /// answered. Commands that came out of band run like the others.
    pub async fn answer<S: Server>(
        server: &S,
        session: runtime::Session,
        message: Result<runtime::Value, runtime::Error>,
    ) -> Option<runtime::Value> {
        match runtime::Request::read(message, session, COMMANDS) {
            Err(refusal) => Some(refusal.into_reply()),
            Ok(request) => {
                let runtime::Request { id, command, arguments, .. } = request;
                let result = dispatch(server, command.name, arguments).await;
                command.reply(id, result)
            }
        }
    }

    /// Any event of the schema.
    #[derive(Clone, PartialEq)]
    #[non_exhaustive]
    pub enum Event {
        /// `EVENT`.
        Event(events::Event),
        /// `Event`.
        Event2(events::Event2),
    }

    impl Event {
        /// Names of all events, in schema order.
        pub const NAMES: &'static [&'static str] = &["EVENT", "Event"];

        /// Its name on the wire.
        pub fn name(&self) -> &'static str {
            match *self {
                Self::Event(_) => "EVENT",
                Self::Event2(_) => "Event",
            }
        }

        /// What it carries.
        pub fn data(&self) -> runtime::Object {
            use runtime::Fields as _;
            let mut object = runtime::Object::new();
            match *self {
                Self::Event(ref data) => data.put(&mut object),
                Self::Event2(ref data) => data.put(&mut object),
            }
            object
        }

        /// The message that tells clients, for something that happened at `at`.
        pub fn to_value(&self, at: runtime::Timestamp) -> runtime::Value {
            at.event(self.name(), self.data())
        }

        /// Reads event `name` with `data`; `None` for one that the schema does not have.
        ///
        /// # Errors
        /// When the data does not fit the schema. Members it does not have are skipped.
        pub fn decode(name: &str, data: runtime::Object) -> Result<Option<Self>, runtime::Invalid> {
            use runtime::Wire as _;
            let data = runtime::Value::Object(data);
            let unknown = runtime::Unknown::Ignore;
            Ok(Some(match name {
                "EVENT" => Self::Event(events::Event::decode(data, unknown)?),
                "Event" => Self::Event2(events::Event2::decode(data, unknown)?),
                _ => return Ok(None),
            }))
        }
    }

    impl std::fmt::Debug for Event {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            runtime::debug_object(self.name(), &self.data(), f)
        }
    }

    impl runtime::Events for Event {
        fn decode(name: &str, data: runtime::Object) -> Result<Option<Self>, runtime::Invalid> {
            Self::decode(name, data)
        }
    }

    impl From<events::Event> for Event {
        fn from(data: events::Event) -> Self {
            Self::Event(data)
        }
    }

    impl From<events::Event2> for Event {
        fn from(data: events::Event2) -> Self {
            Self::Event2(data)
        }
    }
}

use crate::runtime as runtime;

#[allow(clippy::allow_attributes, unused_imports)]
pub use self::interface::*;
