//! From options to nodes: what options say, and what images name.
//!
//! A verb opens into a draft; each driver gets an [`Opener`] through which it opens its children,
//! reads them, and learns its facts. Nothing is visible to requests before the whole tree is open
//! and permissions are checked. Not here: which driver opens what (`registry`), what a node's
//! options come to (`facts`), the verb itself (`add`).

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use block_schema::types::{
    BlockdevDriver, BlockdevOptions, BlockdevOptionsBranch, BlockdevOptionsFile, BlockdevRef,
};

use crate::buffer::AlignedBuf;
use crate::driver::Pending;
use crate::engine::Aio;
use crate::error::{Error, Result};
use crate::graph::facts::{Inherited, facts_of, refuse_rules};
use crate::graph::perm::{Perm, Role, Use};
use crate::graph::policy::{Decision, ImplicitOpen, protocol_of};
use crate::graph::reopen::Again;
use crate::graph::{Draft, NamedChild, Node, NodeFacts, NodeId, NodeIndex};
use crate::layer::Layer;
use crate::queue::{LocalQueue, shield};
use crate::request::cx::Child;
use crate::request::map::EdgeIndex;
use crate::secret::Secret;

/// Nodes on one path from a root to a leaf; an image chain that names itself ends here.
const MAX_DEPTH: u32 = 512;

/// Bytes that a probe looks at.
const PROBE_LEN: usize = 2048;

/// How a node was opened: what it takes to do so again.
#[derive(Clone)]
pub(crate) struct Origin {
    pub(super) options: BlockdevOptions,
    pub(super) inherited: Inherited,
}

/// A name that an image holds, with what it says about it.
#[derive(Clone, Copy, Debug)]
pub struct ImplicitRef<'a> {
    /// The name, as the image spells it.
    pub name: &'a str,
    /// The format the image gives for it.
    pub format: Option<&'a str>,
}

/// Whether a child was there before its parent was opened, again perhaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Instance {
    New,
    Kept,
}

/// One driver's view of the opening of its node.
pub struct Opener {
    layer: Layer,
    queue: LocalQueue,
    draft: Rc<RefCell<Draft>>,
    facts: NodeFacts,
    inherited: Inherited,
    edges: Vec<NamedChild>,
    /// What the node was until now, if it is opened again.
    again: Option<Again>,
}

impl Opener {
    /// The `node-name` that the node will have.
    pub fn node_name(&self) -> &str {
        &self.facts.name
    }

    /// Whether the node is opened read-only.
    pub fn is_read_only(&self) -> bool {
        self.facts.read_only
    }

    /// The node's facts so far.
    pub fn facts(&self) -> &NodeFacts {
        &self.facts
    }

    /// The backend chosen for the node's I/O.
    pub fn aio(&self) -> Aio {
        self.inherited.aio
    }

    /// Whether a node that cannot be opened for writing may become read-only.
    pub fn auto_read_only(&self) -> bool {
        self.inherited.auto_read_only
    }

    /// Whether the image is opened to be checked: damage that a check reports, and perhaps repairs,
    /// is no reason to refuse it.
    pub fn is_for_check(&self) -> bool {
        self.inherited.for_check
    }

    /// Makes the node read-only: the image, or its place, cannot be written.
    pub fn set_read_only(&mut self) {
        self.facts.read_only = true;
    }

    /// The name shown for the image. A node over a file shows the file's unless it says otherwise.
    pub fn set_filename(&mut self, filename: impl Into<String>) {
        self.facts.filename = filename.into();
    }

    /// Says that a driver is named by the schema and not built in.
    pub fn not_built_in(&self, driver: BlockdevDriver) -> Error {
        Error::Unsupported {
            node: self.facts.name.clone(),
            what: format!("driver '{driver}'"),
        }
    }

    /// Opens a child from options, or takes the node that they refer to. Where a child may be left
    /// out, `null` is the caller's to see.
    ///
    /// # Errors
    /// What opening the child answers; `InvalidOption` for an unknown reference.
    pub async fn child(&mut self, name: &str, role: Role, child: BlockdevRef) -> Result<EdgeIndex> {
        if let Some((id, instance)) = self.child_again(name, role, Some(&child)).await? {
            return self.add_edge(name, role, id, instance);
        }
        let mut instance = Instance::New;
        let id = match child {
            BlockdevRef::Reference(reference) => {
                instance = Instance::Kept;
                self.referred(&reference)?
            }
            BlockdevRef::Null(_) => {
                let reason = format!("Invalid parameter type for '{name}', expected: BlockdevRef");
                return Err(Error::invalid(name, reason));
            }
            BlockdevRef::Definition(options) => {
                if options.id.is_some() {
                    return Err(Error::invalid(
                        format!("{name}.id"),
                        format!("Parameter '{name}.id' is unexpected"),
                    ));
                }
                refuse_rules(&format!("{name}."), &options)?;
                let inherited = self.inherited_by(role);
                let opening = open_node(
                    self.layer.clone(),
                    self.queue.clone(),
                    Rc::clone(&self.draft),
                    *options,
                    inherited,
                    None,
                );
                match role {
                    // A chain may be long: who opens it needs no stack for each image.
                    Role::Cow => shield(&self.queue, async move |_, _| opening.await).await?,
                    Role::Image | Role::Data | Role::Filtered => opening.await?,
                }
            }
        };
        self.add_edge(name, role, id, instance)
    }

    /// Opens the backing file: the one in the options, none for `null` or an empty name, else the
    /// one that the image names, if it does.
    ///
    /// # Errors
    /// As [`child`](Opener::child) and [`implicit_child`](Opener::implicit_child).
    pub async fn backing(
        &mut self,
        option: Option<BlockdevRef>,
        named: Option<ImplicitRef<'_>>,
    ) -> Result<Option<EdgeIndex>> {
        const NAME: &str = "backing";
        if let Some(again) = &self.again
            && again.keeps_backing(option.is_some(), named.is_some())?
        {
            let kept = self.child_again(NAME, Role::Cow, None).await?;
            let edge = kept.map(|(id, instance)| self.add_edge(NAME, Role::Cow, id, instance));
            return edge.transpose();
        }
        // An overlay that is opened again has got its backing file meanwhile.
        if self.again.is_none() && self.inherited.without_backing {
            return Ok(None);
        }
        let opened = match (option, named) {
            (Some(BlockdevRef::Null(_)), _) => return Ok(None),
            (Some(BlockdevRef::Reference(name)), _) if name.is_empty() => return Ok(None),
            (Some(backing), _) => self.child(NAME, Role::Cow, backing).await,
            (None, Some(named)) => self.implicit_child(NAME, Role::Cow, named).await,
            (None, None) => return Ok(None),
        };
        match &self.again {
            None => opened.map(Some).map_err(of_backing),
            Some(_) => opened.map(Some),
        }
    }

    /// The child of this name that the node had until now, opened again where it goes along.
    async fn child_again(
        &mut self,
        name: &str,
        role: Role,
        given: Option<&BlockdevRef>,
    ) -> Result<Option<(NodeId, Instance)>> {
        let Some(again) = &self.again else {
            return Ok(None);
        };
        let Some((id, opened)) = again.child(&self.draft.borrow(), name, role, given)? else {
            return Ok(None);
        };
        if let Some((options, again)) = opened {
            again.close().await?;
            let inherited = self.inherited_by(role);
            let opening = open_node(
                self.layer.clone(),
                self.queue.clone(),
                Rc::clone(&self.draft),
                options,
                inherited,
                Some(again),
            );
            opening.await?;
            return Ok(Some((id, Instance::New)));
        }
        Ok(Some((id, Instance::Kept)))
    }

    /// Opens what the image names, if the policy of the layer lets it.
    ///
    /// # Errors
    /// `Denied`; what opening it answers.
    pub async fn implicit_child(
        &mut self,
        name: &str,
        role: Role,
        wanted: ImplicitRef<'_>,
    ) -> Result<EdgeIndex> {
        if let Some((id, instance)) = self.child_again(name, role, None).await? {
            return self.add_edge(name, role, id, instance);
        }
        let decision = self.layer.policy().decide(ImplicitOpen {
            referrer: &self.facts.filename,
            name: wanted.name,
            format: wanted.format,
            role,
        });
        if decision == Decision::Deny {
            return Err(Error::Denied {
                referrer: self.facts.filename.clone(),
                name: wanted.name.to_owned(),
            });
        }
        if role == Role::Data {
            // A file's name and nothing else, from where the program runs; its bytes have no format.
            let plain_file = BlockdevOptionsFile::new(wanted.name.to_owned());
            let file = BlockdevOptions::new(BlockdevOptionsBranch::File(plain_file));
            let file = BlockdevRef::Definition(Box::new(file));
            return self.child(name, role, file).await;
        }
        let protocol = self.protocol_options(wanted.name)?;
        let file = BlockdevRef::Definition(Box::new(BlockdevOptions::new(protocol)));
        let format = match wanted.format {
            Some(format) => format.parse().map_err(|_| {
                Error::invalid("backing-format", format!("Unknown driver '{format}'"))
            })?,
            None if decision == Decision::OpenAndProbe => self.probe(&file, role).await?,
            None => {
                return Err(Error::Denied {
                    referrer: self.facts.filename.clone(),
                    name: format!("{} (without a format)", wanted.name),
                });
            }
        };
        let Some(branch) = self.layer.registry().format_over(format, file) else {
            return Err(self.not_built_in(format));
        };
        self.child(
            name,
            role,
            BlockdevRef::Definition(Box::new(BlockdevOptions::new(branch))),
        )
        .await
    }

    /// The children opened so far, to read before there is a node.
    pub fn children(&self) -> Vec<Child> {
        let graph = Arc::new(self.draft.borrow().graph().clone());
        let places = self.edges.iter().map(|edge| graph.index_of(edge.child));
        let places: Vec<NodeIndex> = places
            .map(|place| place.expect("an opened child is in the draft"))
            .collect();
        let snapshot = self.queue.hold(graph);
        let child = |index| Child::new(self.queue.clone(), Rc::clone(&snapshot), index);
        places.into_iter().map(child).collect()
    }

    /// A child opened so far.
    ///
    /// # Panics
    /// When this opener never opened it.
    pub fn opened(&self, edge: EdgeIndex) -> Child {
        self.children().swap_remove(usize::from(edge.0))
    }

    /// A passphrase or key that an option names by id.
    ///
    /// # Errors
    /// `InvalidOption` when there is none.
    pub fn secret(&self, id: &str) -> Result<Secret> {
        self.layer.secrets().find(id)
    }

    /// The queue that opens the node.
    pub fn queue(&self) -> &LocalQueue {
        &self.queue
    }

    /// Takes the locks of a child whose bytes the driver is about to read, and perhaps repair: what
    /// it reads from now on nobody else changes.
    fn admit(&self, name: &str, role: Role, child: NodeId, instance: Instance) -> Result<()> {
        let but = match (&self.again, instance) {
            (None, _) => None,
            (Some(again), Instance::New) => Some(again.id()),
            // Locked for the old instance until the new graph is permitted.
            (Some(_), Instance::Kept) => return Ok(()),
        };
        if !matches!(role, Role::Image | Role::Data) {
            return Ok(());
        }
        let mut wanted = role.child_use(Use::NOTHING, self.facts.read_only);
        if self.facts.force_share {
            wanted.share = Perm::ALL;
        }
        let who = format!("node '{}' as '{name}'", self.facts.name);
        let draft = self.draft.borrow();
        let roots = self.layer.roots_led(&draft, &|backend| backend.root());
        draft.admit(child, (who, wanted), roots, but)
    }

    fn add_edge(
        &mut self,
        name: &str,
        role: Role,
        child: NodeId,
        instance: Instance,
    ) -> Result<EdgeIndex> {
        self.admit(name, role, child, instance)?;
        if matches!(role, Role::Image | Role::Filtered) && self.facts.filename.is_empty() {
            let draft = self.draft.borrow();
            if let Some(index) = draft.graph().index_of(child) {
                let facts = draft.graph().entry(index).node.facts();
                self.facts.filename.clone_from(&facts.filename);
            }
        }
        let index = u8::try_from(self.edges.len()).unwrap_or(u8::MAX);
        self.edges.push(NamedChild {
            name: name.to_owned(),
            role,
            child,
        });
        Ok(EdgeIndex(index))
    }

    fn referred(&self, reference: &str) -> Result<NodeId> {
        let draft = self.draft.borrow();
        if let Some(index) = draft.graph().find(reference) {
            return Ok(draft.graph().entry(index).node.id());
        }
        // Opened again, a node is told its children by their own names alone.
        let device = if self.again.is_some() { "" } else { reference };
        self.layer
            .backend(device)
            .map(|backend| backend.root())
            .ok_or_else(|| {
                let reason = format!("Cannot find device='{device}' nor node-name='{reference}'");
                Error::invalid("reference", reason)
            })
    }

    fn inherited_by(&self, role: Role) -> Inherited {
        let mut inherited = self.inherited.clone();
        inherited.depth += 1;
        inherited.for_check = false;
        inherited.without_backing = false;
        inherited.cache = self.facts.cache;
        // Filters and formats decide about flushes; below them every write may be cached.
        inherited.cache.writeback = true;
        inherited.read_only = match role {
            Role::Cow => true,
            Role::Image | Role::Data | Role::Filtered => self.facts.read_only,
        };
        // A driver discards only what it has decided to discard; a backing file, what a commit or a
        // guest discards that came to write it.
        inherited.discard_unmap = true;
        inherited
    }

    fn protocol_options(&self, name: &str) -> Result<BlockdevOptionsBranch> {
        if protocol_of(name).is_some() {
            return self.layer.registry().parse_filename(name);
        }
        let resolved = match Path::new(&self.facts.filename).parent() {
            Some(folder) if !name.starts_with('/') => folder.join(name),
            Some(_) | None => name.into(),
        };
        let filename = resolved.to_string_lossy().into_owned();
        Ok(BlockdevOptionsBranch::File(BlockdevOptionsFile::new(
            filename,
        )))
    }

    /// Guesses the format of what `file` opens; in a draft of its own, which goes again.
    async fn probe(&self, file: &BlockdevRef, role: Role) -> Result<BlockdevDriver> {
        let draft = Rc::new(RefCell::new(self.draft.borrow().clone()));
        let mut opener = Opener {
            layer: self.layer.clone(),
            queue: self.queue.clone(),
            draft,
            facts: NodeFacts {
                name: self.facts.name.clone(),
                ..NodeFacts::default()
            },
            inherited: self.inherited_by(role),
            edges: Vec::new(),
            again: None,
        };
        opener.facts.read_only = true;
        let edge = Box::pin(opener.child("file", Role::Filtered, file.clone())).await?;
        let head = probe_bytes(&opener.opened(edge)).await?;
        Ok(self.layer.registry().probe(&head))
    }
}

/// What tells a format: the first bytes of a node.
pub(crate) async fn probe_bytes(child: &Child) -> Result<AlignedBuf> {
    let len = usize::try_from(child.len())
        .unwrap_or(PROBE_LEN)
        .min(PROBE_LEN);
    child.read_bytes(0, len).await
}

/// Opens one node and what is below it into the draft.
pub(super) fn open_node(
    layer: Layer,
    queue: LocalQueue,
    draft: Rc<RefCell<Draft>>,
    options: BlockdevOptions,
    mut inherited: Inherited,
    again: Option<Again>,
) -> Pending<'static, NodeId> {
    Box::pin(async move {
        if inherited.depth > MAX_DEPTH {
            return Err(Error::invalid(
                "file",
                "The chain of images is too long, or names itself",
            ));
        }
        let origin = Origin {
            options: options.clone(),
            inherited: inherited.clone(),
        };
        let facts = facts_of(&options, &mut inherited, again.as_ref())?;
        if again.is_none() && draft.borrow().graph().find(&facts.name).is_some() {
            return Err(Error::invalid(
                "node-name",
                format!("Duplicate nodes with node-name='{}'", facts.name),
            ));
        }
        let registry = Arc::clone(layer.registry());
        let draft_here = Rc::clone(&draft);
        let mut opener = Opener {
            layer,
            queue,
            draft,
            facts,
            inherited,
            edges: Vec::new(),
            again,
        };
        let driver = registry.open(&mut opener, options.driver).await?;
        let mut draft = draft_here.borrow_mut();
        if let Some(again) = opener.again {
            let node = again.finish(opener.facts, driver, origin);
            let id = node.id();
            draft.put_again(node, opener.edges)?;
            return Ok(id);
        }
        let node = Node::opened(opener.facts, driver, Some(origin));
        let id = node.id();
        let edges = draft.edges(opener.edges)?;
        draft.add(node, edges)?;
        Ok(id)
    })
}

/// Says of what is wrong with a backing file that it is the backing file. Errors that callers tell
/// apart stay what they are.
fn of_backing(error: Error) -> Error {
    match error {
        Error::Open { .. } | Error::Corrupt { .. } | Error::InvalidOption { .. } => {
            let reason = format!("Could not open backing file: {}", error.sentence());
            Error::invalid("backing", reason)
        }
        other => other,
    }
}
