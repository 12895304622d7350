//! Leads every generated command to a function, and does nothing else.
//! Called by `session.rs` through the generated dispatch. One trait a schema file; commands that are
//! not here answer that they are not built in.

use std::rc::Rc;

use block_schema::{Error, commands, server, types};

use super::server::Daemon;
use super::session::Session;
use super::{bitmap, blockdev, export, job, object, query, snapshot};

/// The commands as one session runs them.
pub(super) struct Commands {
    pub(super) daemon: Rc<Daemon>,
    pub(super) session: Rc<Session>,
}

impl server::Common for Commands {
    async fn query_version(&self, _: commands::QueryVersion) -> Result<types::VersionInfo, Error> {
        Ok(query::version())
    }

    async fn query_commands(
        &self,
        _: commands::QueryCommands,
    ) -> Result<Vec<types::CommandInfo>, Error> {
        Ok(query::known_commands())
    }
}

impl server::BlockCore for Commands {
    async fn query_block(&self, _: commands::QueryBlock) -> Result<Vec<types::BlockInfo>, Error> {
        Ok(query::devices(self.daemon.queue()).await?)
    }

    async fn query_named_block_nodes(
        &self,
        arguments: commands::QueryNamedBlockNodes,
    ) -> Result<Vec<types::BlockDeviceInfo>, Error> {
        Ok(query::nodes(self.daemon.queue(), &arguments).await?)
    }

    async fn query_blockstats(
        &self,
        arguments: commands::QueryBlockstats,
    ) -> Result<Vec<types::BlockStats>, Error> {
        Ok(query::stats(self.daemon.queue(), &arguments))
    }

    async fn query_block_jobs(
        &self,
        _: commands::QueryBlockJobs,
    ) -> Result<Vec<types::BlockJobInfo>, Error> {
        let jobs = self.daemon.queue().layer().jobs();
        Ok(jobs.iter().map(|job| job.info()).collect())
    }

    async fn block_stream(&self, arguments: commands::BlockStream) -> Result<(), Error> {
        let queue = self.daemon.queue();
        queue.layer().block_stream(queue, arguments).await?;
        Ok(())
    }

    async fn block_commit(&self, arguments: commands::BlockCommit) -> Result<(), Error> {
        let queue = self.daemon.queue();
        queue.layer().block_commit(queue, arguments).await?;
        Ok(())
    }

    async fn drive_backup(&self, arguments: commands::DriveBackup) -> Result<(), Error> {
        let queue = self.daemon.queue();
        queue.layer().drive_backup(queue, arguments).await?;
        Ok(())
    }

    async fn drive_mirror(&self, arguments: commands::DriveMirror) -> Result<(), Error> {
        let queue = self.daemon.queue();
        queue.layer().drive_mirror(queue, arguments).await?;
        Ok(())
    }

    async fn block_job_set_speed(
        &self,
        arguments: commands::BlockJobSetSpeed,
    ) -> Result<(), Error> {
        Ok(job::set_speed(self.daemon.queue().layer(), &arguments)?)
    }

    async fn block_job_cancel(&self, arguments: commands::BlockJobCancel) -> Result<(), Error> {
        let job = self.daemon.queue().layer().job(&arguments.device)?;
        Ok(job::cancel(&job, arguments.force.unwrap_or(false)).await?)
    }

    async fn block_job_pause(&self, arguments: commands::BlockJobPause) -> Result<(), Error> {
        let job = self.daemon.queue().layer().job(&arguments.device)?;
        Ok(job.pause()?)
    }

    async fn block_job_resume(&self, arguments: commands::BlockJobResume) -> Result<(), Error> {
        let job = self.daemon.queue().layer().job(&arguments.device)?;
        Ok(job.resume()?)
    }

    async fn block_job_complete(&self, arguments: commands::BlockJobComplete) -> Result<(), Error> {
        let job = self.daemon.queue().layer().job(&arguments.device)?;
        Ok(job.complete()?)
    }

    async fn blockdev_snapshot_sync(
        &self,
        arguments: commands::BlockdevSnapshotSync,
    ) -> Result<(), Error> {
        let queue = self.daemon.queue();
        queue
            .layer()
            .blockdev_snapshot_sync(queue, arguments)
            .await?;
        Ok(())
    }

    async fn blockdev_add(&self, arguments: commands::BlockdevAdd) -> Result<(), Error> {
        Ok(blockdev::add(self.daemon.queue(), arguments).await?)
    }

    async fn block_passwd(&self, arguments: commands::BlockPasswd) -> Result<(), Error> {
        let queue = self.daemon.queue();
        Ok(queue.layer().block_passwd(queue, arguments).await?)
    }

    async fn block_set_io_throttle(
        &self,
        arguments: commands::BlockSetIoThrottle,
    ) -> Result<(), Error> {
        Ok(self
            .daemon
            .queue()
            .layer()
            .block_set_io_throttle(&arguments)?)
    }

    async fn block_resize(&self, arguments: commands::BlockResize) -> Result<(), Error> {
        let queue = self.daemon.queue();
        Ok(queue.layer().block_resize(queue, &arguments).await?)
    }
}

impl server::Graph for Commands {
    async fn blockdev_snapshot(&self, arguments: commands::BlockdevSnapshot) -> Result<(), Error> {
        let queue = self.daemon.queue();
        Ok(queue.layer().blockdev_snapshot(queue, arguments).await?)
    }

    async fn blockdev_reopen(&self, arguments: commands::BlockdevReopen) -> Result<(), Error> {
        let queue = self.daemon.queue();
        Ok(queue.layer().blockdev_reopen(queue, arguments).await?)
    }

    async fn change_backing_file(
        &self,
        arguments: commands::ChangeBackingFile,
    ) -> Result<(), Error> {
        let queue = self.daemon.queue();
        Ok(queue.layer().change_backing_file(queue, arguments).await?)
    }

    async fn transaction(&self, arguments: commands::Transaction) -> Result<(), Error> {
        let queue = self.daemon.queue();
        Ok(queue.layer().transaction(queue, arguments).await?)
    }
}

impl server::Control for Commands {
    async fn query_qmp_schema(
        &self,
        _: commands::QueryQmpSchema,
    ) -> Result<Vec<types::SchemaInfo>, Error> {
        query::schema()
    }

    async fn blockdev_del(&self, arguments: commands::BlockdevDel) -> Result<(), Error> {
        Ok(blockdev::del(self.daemon.queue(), arguments).await?)
    }

    async fn blockdev_backup(&self, arguments: commands::BlockdevBackup) -> Result<(), Error> {
        let queue = self.daemon.queue();
        queue.layer().blockdev_backup(queue, arguments).await?;
        Ok(())
    }

    async fn blockdev_mirror(&self, arguments: commands::BlockdevMirror) -> Result<(), Error> {
        let queue = self.daemon.queue();
        queue.layer().blockdev_mirror(queue, arguments).await?;
        Ok(())
    }

    async fn block_dirty_bitmap_add(
        &self,
        arguments: commands::BlockDirtyBitmapAdd,
    ) -> Result<(), Error> {
        Ok(bitmap::add(self.daemon.queue().layer(), arguments).await?)
    }

    async fn block_dirty_bitmap_remove(
        &self,
        arguments: commands::BlockDirtyBitmapRemove,
    ) -> Result<(), Error> {
        Ok(bitmap::remove(self.daemon.queue(), &arguments.0).await?)
    }

    async fn block_dirty_bitmap_clear(
        &self,
        arguments: commands::BlockDirtyBitmapClear,
    ) -> Result<(), Error> {
        Ok(bitmap::clear(self.daemon.queue().layer(), &arguments.0).await?)
    }

    async fn block_dirty_bitmap_enable(
        &self,
        arguments: commands::BlockDirtyBitmapEnable,
    ) -> Result<(), Error> {
        Ok(bitmap::enable(self.daemon.queue().layer(), &arguments.0).await?)
    }

    async fn block_dirty_bitmap_disable(
        &self,
        arguments: commands::BlockDirtyBitmapDisable,
    ) -> Result<(), Error> {
        Ok(bitmap::disable(self.daemon.queue().layer(), &arguments.0).await?)
    }

    async fn block_dirty_bitmap_merge(
        &self,
        arguments: commands::BlockDirtyBitmapMerge,
    ) -> Result<(), Error> {
        Ok(bitmap::merge(self.daemon.queue().layer(), arguments).await?)
    }

    async fn blockdev_snapshot_internal_sync(
        &self,
        arguments: commands::BlockdevSnapshotInternalSync,
    ) -> Result<(), Error> {
        let queue = self.daemon.queue();
        queue
            .layer()
            .blockdev_snapshot_internal_sync(queue, arguments)
            .await?;
        Ok(())
    }

    async fn blockdev_snapshot_delete_internal_sync(
        &self,
        arguments: commands::BlockdevSnapshotDeleteInternalSync,
    ) -> Result<types::SnapshotInfo, Error> {
        Ok(snapshot::delete(self.daemon.queue(), arguments).await?)
    }

    async fn nbd_server_start(&self, arguments: commands::NbdServerStart) -> Result<(), Error> {
        Ok(self.daemon.exports().start_server(&arguments)?)
    }

    async fn nbd_server_add(&self, arguments: commands::NbdServerAdd) -> Result<(), Error> {
        Ok(export::nbd_add(&self.daemon, arguments).await?)
    }

    async fn nbd_server_remove(&self, arguments: commands::NbdServerRemove) -> Result<(), Error> {
        Ok(export::nbd_remove(self.daemon.exports(), &arguments)?)
    }

    async fn nbd_server_stop(&self, _: commands::NbdServerStop) -> Result<(), Error> {
        Ok(self.daemon.exports().stop_server().await?)
    }

    async fn block_export_add(&self, arguments: commands::BlockExportAdd) -> Result<(), Error> {
        Ok(self.daemon.exports().add(&arguments.0).await?)
    }

    async fn block_export_del(&self, arguments: commands::BlockExportDel) -> Result<(), Error> {
        Ok(export::del(self.daemon.exports(), &arguments)?)
    }

    async fn query_block_exports(
        &self,
        _: commands::QueryBlockExports,
    ) -> Result<Vec<types::BlockExportInfo>, Error> {
        Ok(self.daemon.exports().list())
    }

    async fn qmp_capabilities(&self, arguments: commands::QmpCapabilities) -> Result<(), Error> {
        self.session.negotiate(arguments)
    }

    async fn stop(&self, _: commands::Stop) -> Result<(), Error> {
        let queue = self.daemon.queue();
        queue.layer().stop(queue).await;
        Ok(())
    }

    async fn cont(&self, _: commands::Cont) -> Result<(), Error> {
        self.daemon.queue().layer().cont();
        Ok(())
    }

    async fn quit(&self, _: commands::Quit) -> Result<(), Error> {
        // So that who is connected hears of their ends.
        self.daemon.queue().layer().end_jobs().await;
        self.session.ask_to_quit();
        Ok(())
    }
}

impl server::Jobs for Commands {
    async fn query_jobs(&self, _: commands::QueryJobs) -> Result<Vec<types::JobInfo>, Error> {
        let jobs = self.daemon.queue().layer().jobs();
        Ok(jobs.iter().map(|job| job.summary()).collect())
    }

    async fn job_pause(&self, arguments: commands::JobPause) -> Result<(), Error> {
        Ok(job::pause(self.daemon.queue().layer(), &arguments.id)?)
    }

    async fn job_resume(&self, arguments: commands::JobResume) -> Result<(), Error> {
        Ok(job::resume(self.daemon.queue().layer(), &arguments.id)?)
    }

    async fn job_cancel(&self, arguments: commands::JobCancel) -> Result<(), Error> {
        let job = job::named(self.daemon.queue().layer(), &arguments.id)?;
        Ok(job::cancel(&job, true).await?)
    }

    async fn job_complete(&self, arguments: commands::JobComplete) -> Result<(), Error> {
        Ok(job::named(self.daemon.queue().layer(), &arguments.id)?.complete()?)
    }

    async fn job_finalize(&self, arguments: commands::JobFinalize) -> Result<(), Error> {
        let job = job::named(self.daemon.queue().layer(), &arguments.id)?;
        Ok(job::finalize(&job).await?)
    }

    async fn job_dismiss(&self, arguments: commands::JobDismiss) -> Result<(), Error> {
        Ok(job::named(self.daemon.queue().layer(), &arguments.id)?.dismiss()?)
    }

    async fn block_job_finalize(&self, arguments: commands::BlockJobFinalize) -> Result<(), Error> {
        let job = self.daemon.queue().layer().job(&arguments.id)?;
        Ok(job::finalize(&job).await?)
    }

    async fn block_job_dismiss(&self, arguments: commands::BlockJobDismiss) -> Result<(), Error> {
        Ok(self.daemon.queue().layer().job(&arguments.id)?.dismiss()?)
    }

    async fn block_job_change(&self, arguments: commands::BlockJobChange) -> Result<(), Error> {
        Ok(job::change(self.daemon.queue().layer(), &arguments)?)
    }
}

impl server::Objects for Commands {
    async fn object_add(&self, arguments: commands::ObjectAdd) -> Result<(), Error> {
        Ok(object::add(self.daemon.queue(), arguments).await?)
    }

    async fn object_del(&self, arguments: commands::ObjectDel) -> Result<(), Error> {
        Ok(object::del(self.daemon.queue(), &arguments)?)
    }
}
