//! The seed in today's dialect: read again, it says the same of the wire as before.

use std::collections::BTreeMap;
use std::path::Path;

use qapi_parser::{
    Arguments, Base, Branch, Dialect, Entity, Kind, Loader, Member, Schema, Type, migrate,
};

/// The schema whose root is `root`, and what it is in today's dialect.
fn both(root: &str) -> (Schema, Schema) {
    let legacy = qapi_parser::parse(root).unwrap_or_else(|errors| panic!("{errors}"));
    let stem = Path::new(root).file_stem().unwrap_or_default();
    let name = format!("qapi-{}-{}", stem.display(), std::process::id());
    let folder = std::env::temp_dir().join(name);
    std::fs::create_dir_all(&folder).expect("the folder can be made");
    let migration = migrate(root).unwrap_or_else(|errors| panic!("{errors}"));
    for file in &migration.files {
        let path = folder.join(file.path.file_name().expect("it has a name"));
        std::fs::write(path, &file.text).expect("the file can be written");
    }
    let name = Path::new(root).file_name().expect("it has a name");
    let modern = Loader::new()
        .dialect(Dialect::Modern)
        .load(folder.join(name));
    std::fs::remove_dir_all(&folder).expect("the folder can go");
    (legacy, modern.unwrap_or_else(|errors| panic!("{errors}")))
}

/// What a schema says of the wire, in words. Types that `named` does not have are said in full
/// where they are used.
struct Wire<'a> {
    schema: &'a Schema,
    named: &'a [String],
}

impl Wire<'_> {
    fn all(&self) -> BTreeMap<&str, String> {
        let entity = |name: &String| self.schema.get(name).map(|entity| self.entity(entity));
        let said = |name| (String::as_str(name), entity(name).unwrap_or_default());
        self.named.iter().map(said).collect()
    }

    fn entity(&self, entity: &Entity) -> String {
        match &entity.kind {
            Kind::Enum(values) => {
                // Dots are the one thing that cannot stay.
                let names = values.names().map(|name| name.replace('.', "_"));
                names.collect::<Vec<_>>().join("|")
            }
            Kind::Struct(_) => format!("{{{}}}", self.members(&entity.name)),
            Kind::FlatUnion(union) => {
                let base = match &union.base {
                    Base::Named(base) => self.members(base),
                    Base::Inline(members) => self.list(members.iter()),
                };
                let branches = union.branches.iter().map(|branch| match &branch.ty {
                    Type::Named(name) => format!("{}: {}", branch.name, self.members(name)),
                    other => panic!("{other:?} in {}", entity.name),
                });
                let branches = branches.collect::<Vec<_>>().join("; ");
                format!("{{{base}}} by {} ({branches})", union.discriminator)
            }
            Kind::SimpleUnion(union) => {
                let base = union.base.as_deref().map(|base| self.members(base) + ", ");
                let base = base.unwrap_or_default();
                let names: Vec<&str> = union.branches.iter().map(|b| b.name.as_str()).collect();
                let branch = |b: &Branch| format!("{}: data: {}", b.name, self.ty(&b.ty));
                let branches = union
                    .branches
                    .iter()
                    .map(branch)
                    .collect::<Vec<_>>()
                    .join("; ");
                format!("{{{base}type: {}}} by type ({branches})", names.join("|"))
            }
            Kind::Alternate(alternate) => {
                let types = alternate.branches.iter().map(|branch| self.ty(&branch.ty));
                types.collect::<Vec<_>>().join(" or ")
            }
            Kind::Command(command) => {
                let returns = command.returns.as_ref().map(|ty| self.ty(ty));
                let (typed, answers) = (command.typed, command.answers);
                let arguments = self.arguments(&command.arguments);
                format!("({arguments}) -> {returns:?} {typed} {answers}")
            }
            Kind::Event(event) => format!("({})", self.arguments(&event.data)),
        }
    }

    fn arguments(&self, arguments: &Arguments) -> String {
        match arguments {
            Arguments::Members(members) => self.list(members.iter()),
            Arguments::Type(name) => self.members(name),
        }
    }

    fn members(&self, name: &str) -> String {
        self.list(
            self.schema
                .members(name)
                .into_iter()
                .map(|(member, _)| member),
        )
    }

    fn list<'m>(&self, members: impl Iterator<Item = &'m Member>) -> String {
        let member = |member: &Member| {
            let mark = if member.optional { "?" } else { "" };
            format!("{}{mark}: {}", member.name, self.ty(&member.ty))
        };
        members.map(member).collect::<Vec<_>>().join(", ")
    }

    fn ty(&self, ty: &Type) -> String {
        match ty {
            Type::Builtin(builtin) => format!("{builtin:?}"),
            Type::List(element) => format!("[{}]", self.ty(element)),
            Type::Named(name) if self.named.contains(name) => name.clone(),
            Type::Named(name) => match self.schema.get(name) {
                Some(entity) => self.entity(entity),
                None => name.clone(),
            },
        }
    }
}

#[track_caller]
fn check(root: &str) {
    let (legacy, modern) = both(root);
    let is_inline = |entity: &Entity| entity.kind.is_type() && entity.name.contains('-');
    let entities = legacy.entities.values().filter(|entity| !is_inline(entity));
    let named: Vec<String> = entities.map(|entity| entity.name.clone()).collect();
    let said = |schema| Wire {
        schema,
        named: &named,
    };
    let (before, after) = (said(&legacy), said(&modern));
    let (before, after) = (before.all(), after.all());
    assert!(before.values().all(|text| !text.is_empty()));
    for (name, text) in &before {
        assert_eq!(Some(text), after.get(name), "{name}");
    }
}

#[test]
fn the_seed_says_the_same_in_todays_dialect() {
    check("../schema/block-core.json");
}

#[test]
fn the_whole_schema_says_the_same_in_todays_dialect() {
    check("../schema/schema.json");
}
