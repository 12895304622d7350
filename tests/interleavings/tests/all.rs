//! Runs every model.

macro_rules! models {
    ($module:ident: $($name:ident)*) => {$(
        #[test]
        fn $name() {
            interleavings::$module::$name();
        }
    )*};
}

models! { models:
    a_claim_or_the_request_gives_way
    a_drain_or_the_request_gives_way
    an_open_gate_shows_the_graph_behind_it
    a_write_that_a_drain_did_not_wait_for_sees_who_watches
    what_is_given_up_waits_for_its_readers
    no_wake_up_is_lost
    the_lock_has_one_holder
    a_mark_is_taken_or_stays
    a_write_after_the_cut_is_in_the_next_bitmap
    a_sync_serves_those_who_came_before_it
    a_valid_view_shows_its_own_table
    a_valid_view_shows_no_memory_that_went_back
    a_pair_in_a_valid_view_is_whole
    a_pair_of_a_held_table_is_whole
    a_table_is_loaded_once
    every_change_reaches_a_copy
    a_slot_is_seen_whole
    a_slot_has_one_writer
}

models! { allocator:
    a_cluster_has_one_owner
    what_is_given_back_is_found_again
    what_is_freed_is_read_no_more
    what_is_freed_is_gone_from_the_disk
    a_hole_is_made_of_nothing_that_is_packed
}
