//! Nodes that come by their options: `blockdev-add`.
//!
//! Called by QMP, the program and jobs. Invariant: on an error the graph and all locks are as before.
//! Not here: how a tree of options becomes nodes (`open.rs`).

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use block_schema::types::BlockdevOptions;

use crate::error::{Error, Result};
use crate::graph::facts::{Inherited, refuse_rules};
use crate::graph::open::open_node;
use crate::graph::perm::Use;
use crate::graph::{Draft, NodeId};
use crate::layer::Layer;
use crate::on_error::OnError;
use crate::queue::{LocalQueue, shield};

impl Layer {
    /// Opens a node by its options and, when they have an `id`, adds a backend of that name.
    ///
    /// # Errors
    /// What is wrong with the options, by the member's name; what opening answers. The graph is
    /// unchanged then.
    pub async fn blockdev_add(
        &self,
        queue: &LocalQueue,
        options: BlockdevOptions,
    ) -> Result<NodeId> {
        self.add_opened(queue, options, Inherited::default()).await
    }

    /// As [`blockdev_add`](Layer::blockdev_add), for an image that is to be checked, however
    /// damaged; see [`Opener::is_for_check`].
    ///
    /// # Errors
    /// As [`blockdev_add`](Layer::blockdev_add).
    pub async fn blockdev_add_for_check(
        &self,
        queue: &LocalQueue,
        options: BlockdevOptions,
    ) -> Result<NodeId> {
        let inherited = Inherited {
            for_check: true,
            ..Inherited::default()
        };
        self.add_opened(queue, options, inherited).await
    }

    async fn add_opened(
        &self,
        queue: &LocalQueue,
        options: BlockdevOptions,
        inherited: Inherited,
    ) -> Result<NodeId> {
        if options.id.is_none() && options.node_name.is_none() {
            return Err(Error::invalid(
                "id",
                "'id' and/or 'node-name' need to be specified for the root node",
            ));
        }
        self.add_root(queue, options, inherited).await
    }

    /// As [`blockdev_add`](Layer::blockdev_add), but a node that nobody gave a name gets one.
    ///
    /// # Errors
    /// As [`blockdev_add`](Layer::blockdev_add).
    pub(crate) async fn blockdev_add_unnamed(
        &self,
        queue: &LocalQueue,
        options: BlockdevOptions,
    ) -> Result<NodeId> {
        self.add_root(queue, options, Inherited::default()).await
    }

    async fn add_root(
        &self,
        queue: &LocalQueue,
        options: BlockdevOptions,
        inherited: Inherited,
    ) -> Result<NodeId> {
        shield(queue, async move |layer, queue| {
            let change = layer.change().await;
            let device = options.id.clone();
            let rules = match &device {
                Some(_) => OnError::from_options(options.rerror, options.werror)?,
                None => {
                    refuse_rules("", &options)?;
                    OnError::default()
                }
            };
            if let Some(id) = &device
                && (layer.backend(id).is_some() || layer.graph().find(id).is_some())
            {
                return Err(Error::invalid(
                    "id",
                    format!("Duplicate ID '{id}' for block device"),
                ));
            }
            let draft = Rc::new(RefCell::new(Draft::from(&layer.graph())));
            let opening = open_node(
                layer.clone(),
                queue.clone(),
                Rc::clone(&draft),
                options,
                inherited,
                None,
            );
            let opened = opening.await;
            let draft = draft.take();
            let id = opened.inspect_err(|_| change.restore_locks())?;
            let Some(index) = draft.graph().index_of(id) else {
                return Err(Error::ShutDown);
            };
            let node = Arc::clone(&draft.graph().entry(index).node);
            change.permit(&draft, &change.roots(&draft))?;
            change.publish(draft);
            if let Some(id) = device {
                let added = change.add_backend(&id, node.id(), Use::backend(node.is_read_only()));
                match added {
                    Ok(backend) => backend.set_on_error(rules),
                    Err(error) => {
                        drop(change);
                        layer.remove_node(&queue, node.id()).await.ok();
                        return Err(error);
                    }
                }
            }
            Ok(node.id())
        })
        .await
    }
}
