//! The database layer: the same tests on SQLite, on MariaDB, and on TiDB where the environment names one.

mod business;
mod calls;
mod claims;
mod clocks;
mod contacts;
mod coupons;
mod engine;
mod gateway;
mod group;
mod lost;
mod messages;
mod nodes;
mod on_tidb_processes;
mod operator;
mod plans;
mod points;
mod prune;
mod records;
mod refunds;
mod replays;
mod requests;
mod role_databases;
mod schema;
mod stocked;
mod view;
mod walks;

use crate::support::servers::tidb::tidb;
use crate::support::servers::{mariadb, sqlite};

/// Each function as a test on every database.
macro_rules! on_each {
    ($($path:ident::$name:ident,)*) => {
        mod on_sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$path::$name(super::sqlite().await).await })*
        }
        mod on_mariadb {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                if let Some(test) = super::mariadb().await { super::$path::$name(test).await }
            })*
        }
        mod on_tidb {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                if let Some(test) = super::tidb().await { super::$path::$name(test).await }
            })*
        }
    };
}

on_each! {
    business::orders_,
    business::products_,
    business::stock_,
    stocked::what_changed_is_told_once,
    stocked::newer_levels_win,
    stocked::the_ledger_is_read_page_by_page,
    business::payments_and_refunds,
    business::points_and_notices,
    business::an_order_is_its_own_users,
    points::a_shortfall_is_paid_back_first,
    points::spent_once_and_never_too_much,
    points::the_book_page_by_page,
    coupons::coupons_,
    gateway::merchants_,
    requests::a_key_belongs_to_its_first_request,
    requests::old_keys_go_with_new_ones,
    engine::a_caller_who_left_has_nothing_written,
    gateway::numbers_,
    gateway::statistics_,
    gateway::a_refused_wish_lends_nothing_but_its_number,
    gateway::one_of_64_wishes,
    coupons::orders_keep_their_coupon,
    messages::outbox_,
    claims::a_claim_holds_so_many_bytes,
    messages::outbox_claims_are_disjoint,
    messages::what_is_late_or_given_up_is_counted,
    messages::outbox_rows_wait_for_broker_and_leave_in_order,
    messages::events_are_taken_back_by_key,
    messages::who_holds_a_delayed_event,
    messages::what_no_broker_takes_has_no_row,
    messages::inbox_,
    messages::inbox_claims_each_id_once,
    messages::inbox_revives_what_was_sent_again,
    messages::parking_behind_and_finishing_exclude_each_other,
    messages::retry_,
    messages::without_a_key_nothing_waits,
    messages::delivery_,
    messages::tx_state_,
    calls::next_call_of_order_waits_for_the_one_before,
    calls::asked_for_once_more_its_schedule_begins_anew,
    calls::only_calls_that_nobody_has_begun_are_deleted,
    calls::only_calls_nobody_carried_out_are_reworded,
    contacts::the_last_contact_counts,
    operator::the_send_log_is_read_page_by_page,
    operator::what_was_sent_or_given_up_is_sent_again,
    operator::the_story_of_an_order_is_read,
    view::the_newest_version_is_shown,
    view::orders_are_searched_page_by_page,
    refunds::refunds_of_orders,
    refunds::parts_of_a_payment_go_back_beside_each_other,
    refunds::points_are_taken_back_in_parts,
    refunds::never_more_goes_back_than_was_paid,
    refunds::a_refund_that_is_made_anew_has_its_number,
    records::the_inbox_is_read_from_its_end,
    records::parked_messages_are_read_page_by_page,
    records::a_parked_message_is_tried_again,
    replays::a_replay_is_taken_once_by_its_name,
    replays::copies_at_once_die_once,
    lost::what_was_lost_is_due_again,
    lost::sums_are_made_anew,
    nodes::numbers_are_unique,
    nodes::a_number_that_ran_out_gives_no_ids,
    nodes::returned_number_is_not_used_before_its_last_id,
    nodes::a_clock_that_goes_back_shortens_no_lease,
    plans::loops_read_only_what_is_due,
    plans::a_claim_reads_no_calls_that_wait,
    plans::search_reads_only_what_is_asked_for,
    plans::a_backlog_is_counted_up_to_a_bound,
    walks::an_unreadable_row_stops_no_claim,
    walks::a_level_that_cannot_be_told_stops_none,
    engine::in_lists_of_any_length,
    engine::updates_of_any_size_and_text_length,
    engine::a_failed_transaction_leaves_nothing,
    engine::group_commit_isolates_the_bad_one,
    schema::eight_processes_migrate_once,
    schema::a_newer_schema_is_refused,
    schema::a_dry_run_changes_nothing,
}
