//! The binaries on real loopback sockets: the same scenarios with the same output on the three
//! runtimes.

#![allow(clippy::unwrap_used, reason = "a scenario that cannot go on has failed")]

mod command_line;
mod echo;
mod fanout;
mod haproxy;
mod logging;
mod message;
mod message_python;
mod namespace;
mod nginx;
mod process;
mod proxy;
mod status;
mod systemd;
mod third_party;
mod unix;
mod urgent;

/// Makes a test for each runtime of each scenario, which is a function of the binary's name.
macro_rules! on_every_runtime {
    ($($module:ident: $($scenario:ident),+;)+) => {
        mod tokio { $(mod $module { $(
            #[test]
            fn $scenario() { crate::$module::$scenario("wirestate-tokio"); }
        )+ })+ }
        mod smol { $(mod $module { $(
            #[test]
            fn $scenario() { crate::$module::$scenario("wirestate-smol"); }
        )+ })+ }
        mod std { $(mod $module { $(
            #[test]
            fn $scenario() { crate::$module::$scenario("wirestate-std"); }
        )+ })+ }
    };
}

on_every_runtime! {
    echo:
        bytes_come_back_however_they_are_cut,
        a_half_closed_peer_gets_8_mib_back_to_the_last_byte,
        peers_that_reset_end_alone,
        a_reset_behind_a_fin_is_a_reset,
        a_thousand_connections_at_once,
        an_idle_connection_is_closed_after_its_time,
        a_peer_that_does_not_read_is_reset_when_its_time_is_over,
        connections_beyond_the_cap_are_refused_until_there_is_room,
        running_out_of_files_leaves_open_connections_alone,
        a_prefix_goes_before_each_chunk_and_bytes_pass_unchanged,
        what_arrived_while_the_process_was_stopped_is_served,
        sigterm_flushes_what_is_owed,
        sigterm_leaves_a_slow_reader_its_time,
        the_drain_ends_by_a_reset_when_its_time_is_over,
        a_drain_goes_on_where_the_process_was_stopped,
        what_waits_in_the_backlog_when_it_is_stopped_is_answered,
        restarts_under_load_reset_nobody,
        a_signal_that_comes_twice_at_once_is_one,
        a_second_signal_ends_at_once;
    fanout:
        every_healthy_subscriber_gets_whole_messages_through_upstream_restarts,
        a_thousand_subscribers_at_once,
        a_subscriber_that_does_not_read_is_disconnected_alone,
        subscribers_that_do_not_read_and_come_again_leave_others_the_feed,
        a_subscriber_that_sleeps_and_catches_up_in_time_does_not_for_ever,
        a_subscriber_that_may_skip_goes_on_with_whole_messages,
        subscribers_wait_while_the_upstream_is_away,
        a_subscriber_that_leaves_is_noticed_without_a_message,
        a_late_subscriber_gets_the_last_messages_first,
        without_messages_each_byte_is_passed_on_as_it_comes,
        a_line_beyond_the_limit_drops_the_upstream,
        a_source_serves_one_client_at_a_time,
        a_source_serves_a_client_that_has_closed_its_side,
        a_client_shows_messages_and_ends_after_so_many,
        a_client_says_how_its_stream_ended,
        a_client_ends_well_with_a_server_that_is_stopped,
        what_does_not_go_together_is_wrong_usage,
        what_was_published_is_flushed_on_sigterm;
    proxy:
        the_four_checks_and_the_fifth,
        many_connections_verify_every_byte_through_it,
        a_late_answer_arrives_behind_the_clients_fin,
        a_clients_reset_arrives_at_the_upstream,
        an_upstreams_reset_arrives_at_the_client,
        a_reset_waits_for_what_a_slow_reader_has_no_room_for,
        a_reset_waits_for_what_a_receiver_has_thrown_away,
        a_reset_that_nobody_is_left_to_hear_ends_the_connection,
        a_client_without_an_upstream_gets_a_fin_although_it_sends_1_mib,
        another_upstream_is_tried_when_one_refuses,
        another_upstream_is_tried_when_one_accepts_and_resets,
        an_upstream_that_does_not_answer_runs_into_the_deadline,
        a_connection_on_which_nothing_moves_is_reset,
        a_paused_download_holds_the_upstream_back,
        a_lack_of_open_files_is_not_held_against_the_upstream,
        what_comes_in_bulk_passes_through_pipes,
        what_follows_urgent_data_arrives,
        sigterm_ends_what_is_quiet_and_lets_the_rest_go_on,
        the_metrics_say_how_each_upstream_is,
        a_pair_counts_two_open_files,
        a_proxy_that_would_be_its_own_upstream_is_wrong_usage,
        a_proxy_that_reaches_itself_refuses_itself,
        headers_from_elsewhere_are_wrong_usage_without_being_accepted,
        a_server_behind_a_header_serves_the_bytes_behind_it,
        half_a_header_is_too_late_after_its_time,
        a_proxy_header_from_an_untrusted_address_is_reset;
    nginx:
        the_four_checks_and_the_fifth_behind_nginx,
        a_server_knows_the_client_that_nginx_announces,
        subscribers_come_through_nginx_as_well,
        a_client_is_announced_from_nginx_through_our_proxy,
        a_client_that_nginx_announces_with_mixed_families_is_served,
        nginx_reads_the_headers_that_we_send,
        a_late_answer_arrives_behind_nginx_where_ours_is_last;
    haproxy:
        a_server_knows_the_client_that_haproxy_announces,
        haproxys_health_checks_are_no_faults,
        haproxy_reads_the_headers_that_we_send;
    message:
        the_golden_request_is_answered_byte_for_byte,
        requests_may_be_sent_without_waiting_and_cut_anywhere,
        one_shot_closes_behind_the_first_reply,
        a_table_of_ones_own_is_searched,
        a_table_that_is_none_is_named,
        text_may_be_in_the_character_set_that_is_named,
        an_empty_content_is_answered_and_more_bytes_behind_a_request_cost_no_reply,
        a_client_that_sends_no_frame_gets_an_error_reply_and_only_it_is_closed,
        a_bad_length_is_told_as_documented,
        requests_are_counted_in_the_metrics,
        an_error_reply_outlives_1_mib_that_follows_the_bad_frame,
        memory_follows_what_has_come_and_not_what_was_declared,
        contents_take_no_more_than_the_memory_for_all,
        limits_are_flags,
        an_idle_connection_is_closed_by_a_fin,
        sigterm_answers_what_has_begun_to_come,
        a_client_shows_the_result,
        a_client_says_in_a_line_why_there_is_no_result,
        a_client_whose_output_nobody_reads_ends_quietly;
    message_python:
        a_blocking_python_client_gets_its_replies,
        a_selectors_based_python_client_gets_its_replies,
        a_python_server_satisfies_our_client;
    command_line:
        a_port_in_use_is_named,
        a_refused_connection_is_named,
        wrong_usage_exits_with_2,
        the_defaults_are_those_that_are_documented,
        each_flag_of_a_server_has_its_environment_variable,
        flags_have_environment_variables,
        an_empty_environment_variable_is_not_set,
        quiet_keeps_the_ready_line_alone,
        what_the_log_says_is_a_field_in_json,
        the_log_says_which_server_a_connection_is_of,
        a_server_that_connects_says_first_that_it_listens_and_last_that_it_stopped,
        a_low_limit_of_open_files_is_said_with_what_it_allows,
        the_limit_of_open_files_is_raised_at_the_start,
        a_client_converses_line_by_line,
        a_terminal_is_shown_what_it_would_obey,
        a_client_notices_that_the_server_is_gone,
        a_closed_standard_output_ends_a_client_quietly,
        a_server_that_closes_behind_its_answer_is_fine,
        names_and_ipv6_addresses_are_addresses,
        many_connections_verify_every_byte,
        a_byte_that_comes_back_wrong_fails_the_run,
        only_what_came_back_is_said_to_be_verified,
        the_demo_ends_by_itself,
        a_demo_that_can_not_open_enough_files_says_so;
    status:
        curl_and_python_read_every_page,
        prometheus_reads_the_metrics_in_both_formats,
        the_page_renews_itself_in_a_browser,
        readiness_fails_first_and_the_status_answers_during_a_drain,
        a_lame_duck_accepts_while_readiness_fails,
        the_status_answers_when_the_service_is_full,
        the_status_answers_when_no_file_can_be_opened,
        incomplete_heads_do_not_disturb_the_service,
        the_status_answers_when_it_is_full_of_silent_connections,
        a_past_burst_of_requests_delays_no_page,
        slow_readers_of_pages_block_no_health_check,
        lingering_connections_block_no_health_check,
        clients_that_request_without_pause_are_answered_at_a_bounded_rate,
        an_answer_survives_unread_content,
        a_host_name_must_be_allowed;
    logging:
        a_log_that_nobody_reads_stops_nothing,
        a_second_signal_ends_a_server_whose_log_nobody_reads,
        a_log_that_is_read_again_says_how_much_is_missing,
        a_full_disk_under_the_log_stops_nothing,
        a_client_whose_standard_error_nobody_reads_does_its_work,
        a_client_that_resets_all_the_time_does_not_fill_the_log,
        with_debug_messages_every_reset_has_its_line,
        a_source_that_closes_again_and_again_does_not_fill_the_log,
        health_checks_are_counted_and_not_logged,
        a_hangup_drains_and_user_signals_are_ignored,
        a_hangup_that_is_ignored_stays_so,
        a_hangup_ends_a_client;
    namespace:
        a_dial_that_reaches_itself_is_a_failed_attempt,
        a_name_is_listened_on_with_all_its_addresses,
        a_resolver_that_does_not_answer_delays_nothing_but_its_dial,
        a_server_that_is_its_own_upstream_by_name_ends;
    unix:
        an_echo_on_a_unix_socket_serves_netcat_and_our_clients,
        a_fan_out_goes_from_one_unix_socket_to_another,
        a_socket_left_behind_is_removed_and_a_live_one_is_in_use,
        the_mode_of_a_socket_is_what_the_umask_leaves,
        a_reset_looks_like_an_end_on_a_unix_socket,
        a_lock_on_the_folder_does_not_hold_the_start,
        a_socket_that_does_not_listen_yet_is_in_use,
        a_status_on_a_unix_socket_or_ipv6_is_answered;
    urgent:
        an_echo_comes_back_from_behind_urgent_data,
        requests_are_answered_from_behind_urgent_data,
        a_proxy_passes_on_what_is_behind_urgent_data_either_way,
        subscribers_get_what_is_behind_urgent_data;
    systemd:
        sockets_that_are_passed_are_served,
        what_was_not_passed_is_named,
        what_can_not_be_listened_on_is_named,
        the_sockets_of_one_name_are_served_together,
        the_service_manager_is_told,
        a_service_manager_of_an_abstract_name_is_told,
        a_service_manager_that_does_not_listen_holds_nobody,
        shells_get_completions_and_readers_a_manual;
    third_party:
        netcat_gets_its_bytes_back,
        a_blocking_python_client_gets_its_bytes_back,
        a_selectors_based_python_client_gets_its_bytes_back,
        a_third_party_server_satisfies_our_clients;
}
