//! `if`: when a definition, member, value or feature is there, as a small tree over symbols.
//! Built by `check.rs`; generators keep it, or decide it with [`Cond::holds`].
//! Invariant: a condition that was not written is [`Cond::Always`].

/// When something is there.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub enum Cond {
    /// Without condition.
    #[default]
    Always,
    /// When the symbol is configured.
    Symbol(String),
    /// When the other does not hold.
    Not(Box<Cond>),
    /// When all hold.
    All(Vec<Cond>),
    /// When one holds.
    Any(Vec<Cond>),
}

impl Cond {
    /// Whether nothing was asked.
    pub fn is_always(&self) -> bool {
        *self == Self::Always
    }

    /// Whether it holds where `is_set` says which symbols are configured.
    pub fn holds(&self, is_set: &impl Fn(&str) -> bool) -> bool {
        match self {
            Self::Always => true,
            Self::Symbol(symbol) => is_set(symbol),
            Self::Not(cond) => !cond.holds(is_set),
            Self::All(conds) => conds.iter().all(|cond| cond.holds(is_set)),
            Self::Any(conds) => conds.iter().any(|cond| cond.holds(is_set)),
        }
    }

    /// Calls `each` for every symbol in it, in the order written.
    pub fn symbols<'a>(&'a self, each: &mut impl FnMut(&'a str)) {
        match self {
            Self::Always => {}
            Self::Symbol(symbol) => each(symbol),
            Self::Not(cond) => cond.symbols(each),
            Self::All(conds) | Self::Any(conds) => {
                for cond in conds {
                    cond.symbols(each);
                }
            }
        }
    }
}
