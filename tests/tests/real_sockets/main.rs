//! The binaries on real loopback sockets: the same scenarios with the same output on the three
//! runtimes.

#![allow(clippy::unwrap_used, reason = "a helper of a test fails the test by a panic")]

mod access;
mod access_log;
#[path = "../browser/mod.rs"]
mod browser;
mod certificates;
mod clients;
mod command_line;
mod conventions;
mod echo;
mod fanout;
mod fanout_sources;
mod faults;
mod hand_over;
mod haproxy;
mod listening;
mod logging;
mod message;
mod message_python;
mod namespace;
mod nginx;
mod process;
mod proxies;
mod proxy;
mod publishing;
mod rates;
mod recordings;
mod serve;
mod status;
mod systemd;
mod third_party;
mod tls;
mod unix;
mod upstreams;
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
    rates:
        bytes_beyond_a_rate_wait,
        connections_beyond_a_rate_are_refused_or_wait,
        a_rate_applies_to_the_client_of_a_proxy_header;
    access:
        a_denied_address_is_refused,
        a_denied_client_of_a_proxy_header_is_reset,
        a_range_that_is_allowed_and_denied_is_wrong_usage;
    access_log:
        each_connection_has_a_line_when_it_ends,
        a_hangup_opens_the_access_log_again,
        an_access_log_that_cannot_be_written_blocks_nothing,
        an_access_log_that_cannot_be_opened_ends_the_start,
        an_access_log_on_standard_output_is_data;
    recordings:
        sessions_of_all_servers_replay_on_another_runtime,
        a_recording_beyond_its_limit_stops_and_the_connection_goes_on,
        only_sessions_that_end_in_an_error_are_kept_on_request,
        a_folder_that_cannot_be_written_ends_the_start;
    conventions:
        colours_obey_the_environment,
        a_dumb_terminal_gets_no_escape_sequences,
        each_v_adds_lines_to_the_log,
        a_filter_selects_lines_of_the_log,
        text_that_cannot_be_written_fails,
        a_misspelt_variable_is_warned_of,
        an_error_says_what_to_do,
        variables_that_contradict_flags_are_named;
    echo:
        bytes_come_back_in_order_in_any_chunks,
        a_half_closed_peer_gets_8_mib_back_to_the_last_byte,
        peers_that_reset_end_alone,
        a_reset_after_a_fin_is_a_reset,
        a_thousand_connections_at_once,
        an_idle_connection_is_closed_after_the_idle_timeout,
        a_peer_that_does_not_read_is_reset_after_the_idle_timeout,
        connections_beyond_the_limit_are_refused,
        running_out_of_files_leaves_open_connections_alone,
        a_prefix_goes_before_each_chunk_and_bytes_pass_unchanged,
        bytes_that_arrive_while_the_process_is_suspended_are_echoed,
        sigterm_flushes_pending_output,
        sigterm_waits_for_a_slow_reader,
        a_connection_that_outlasts_the_drain_timeout_is_reset,
        time_in_which_the_process_is_suspended_does_not_count_for_the_drain,
        requests_in_the_backlog_are_answered_before_the_server_ends,
        restarts_under_load_reset_no_client,
        two_signals_at_once_count_as_one,
        a_second_signal_ends_the_process;
    fanout:
        healthy_subscribers_get_complete_messages_across_upstream_restarts,
        a_thousand_subscribers_at_once,
        a_subscriber_that_does_not_read_is_disconnected_alone,
        many_subscribers_that_do_not_read_do_not_stall_the_others,
        a_subscriber_that_keeps_pausing_is_disconnected_in_the_end,
        a_subscriber_that_skips_continues_with_complete_messages,
        subscribers_wait_while_the_upstream_is_away,
        a_subscriber_that_leaves_is_noticed_without_a_message,
        a_late_subscriber_gets_the_last_messages_first,
        without_framing_bytes_are_passed_on_at_once,
        a_line_beyond_the_limit_ends_the_upstreams_connection,
        a_source_serves_one_client_at_a_time,
        a_source_serves_a_client_that_has_closed_its_side,
        a_client_writes_messages_and_ends_after_its_count,
        a_client_reports_how_its_stream_ended,
        a_client_exits_with_0_when_the_server_is_shut_down,
        contradicting_flags_are_wrong_usage,
        published_messages_are_flushed_on_sigterm;
    publishing:
        a_server_that_only_publishes_is_ready_at_once_and_ends_when_it_is_asked,
        a_source_is_not_dialled_before_the_lease_is_held_unless_messages_may_be_skipped,
        credentials_of_a_stream_are_loaded_again;
    fanout_sources:
        standard_input_is_published_until_its_end,
        standard_input_that_cannot_be_published_is_a_failure,
        a_signal_ends_a_server_that_waits_for_standard_input,
        messages_of_many_publishers_arrive_whole_and_in_order,
        publishers_have_limits_of_their_own,
        publishers_are_held_while_the_feed_is_paused,
        subscribers_are_disconnected_at_a_gap,
        contradicting_flags_of_sources_are_wrong_usage;
    hand_over:
        no_connection_is_lost_on_tcp,
        no_connection_is_lost_on_a_unix_socket,
        no_connection_is_lost_with_tls;
    proxy:
        clients_reach_the_upstream_through_the_proxy_or_get_an_error,
        many_connections_verify_every_byte_through_it,
        a_reply_arrives_after_the_clients_fin,
        a_clients_reset_arrives_at_the_upstream,
        an_upstreams_reset_arrives_at_the_client,
        a_reset_waits_until_a_slow_reader_has_read_all,
        a_reset_waits_for_retransmitted_bytes,
        a_pending_reset_ends_when_the_other_side_resets_as_well,
        a_client_without_an_upstream_gets_a_fin_although_it_sends_1_mib,
        another_upstream_is_tried_when_one_refuses,
        another_upstream_is_tried_when_one_accepts_and_resets,
        a_dial_without_an_answer_ends_at_the_connect_timeout,
        an_idle_connection_is_reset,
        a_paused_download_holds_the_upstream_back,
        an_upstream_is_not_down_because_open_files_ran_out,
        bulk_data_passes_through_pipes,
        bytes_after_urgent_data_are_relayed,
        sigterm_ends_quiet_connections_and_lets_busy_ones_continue,
        the_metrics_show_each_upstream,
        a_proxied_connection_counts_as_two_open_files,
        a_proxy_that_would_be_its_own_upstream_is_wrong_usage,
        a_proxy_that_reaches_itself_rejects_the_connection,
        proxy_from_without_accept_proxy_is_wrong_usage,
        a_server_serves_the_bytes_after_a_proxy_header,
        an_incomplete_proxy_header_is_reset_after_its_timeout,
        a_proxy_header_from_an_untrusted_address_is_reset;
    faults:
        the_same_seed_gives_the_same_faults_on_every_runtime,
        a_random_seed_is_logged_and_repeats_the_run,
        an_injected_reset_comes_to_both_sides,
        a_half_closed_direction_leaves_the_other_one_open,
        a_black_hole_answers_nothing,
        a_hangup_reads_the_plan_again_for_new_connections,
        a_wrong_plan_is_wrong_usage,
        redis_cli_reads_what_arrives_in_pieces_and_reports_a_reset;
    upstreams:
        the_log_and_the_list_of_connections_name_the_upstream,
        a_backup_serves_while_the_other_upstreams_are_away,
        health_checks_find_upstreams_that_are_away_and_back,
        a_check_that_is_not_answered_fails_at_its_timeout,
        a_check_for_which_no_file_can_be_opened_is_no_failure,
        health_checks_have_tls_if_upstreams_have_it,
        contradicting_flags_are_wrong_usage;
    nginx:
        clients_reach_an_echo_server_through_nginx_or_get_an_error,
        a_server_learns_the_client_from_nginxs_header,
        subscribers_come_through_nginx_as_well,
        a_header_from_nginx_names_the_client_behind_the_proxy,
        a_header_of_nginx_with_mixed_address_families_is_accepted,
        tls_ends_and_begins_at_the_proxy_and_at_nginx,
        nginx_reads_the_headers_that_we_send,
        a_late_reply_arrives_through_nginx_and_then_the_proxy;
    haproxy:
        a_server_learns_the_client_from_haproxys_header,
        health_checks_of_haproxy_are_not_counted_as_failures,
        haproxy_reads_the_headers_that_we_send,
        tls_ends_and_begins_at_the_proxy_and_at_haproxy;
    message:
        the_golden_request_is_answered_byte_for_byte,
        pipelined_requests_in_any_chunks_are_answered_in_order,
        one_shot_closes_after_the_first_reply,
        a_table_from_a_file_is_searched,
        an_error_names_the_invalid_table,
        text_may_be_in_the_character_set_that_is_named,
        a_reply_is_not_lost_to_invalid_bytes_after_its_request,
        an_invalid_frame_gets_an_error_reply_and_closes_one_connection,
        an_invalid_length_gets_the_documented_error,
        requests_are_counted_in_the_metrics,
        an_error_reply_arrives_despite_1_mib_after_the_invalid_frame,
        memory_grows_with_received_bytes_not_with_declared_lengths,
        the_contents_of_all_connections_share_max_memory,
        limits_are_flags,
        an_idle_connection_is_closed_by_a_fin,
        sigterm_answers_requests_that_have_begun_to_arrive,
        a_client_shows_the_result,
        a_client_reports_in_one_line_why_there_is_no_result,
        a_client_with_a_closed_standard_output_exits_with_0;
    message_python:
        a_blocking_python_client_gets_its_replies,
        a_selectors_based_python_client_gets_its_replies,
        a_python_server_satisfies_our_client;
    command_line:
        a_port_in_use_is_named,
        a_refused_connection_is_named,
        wrong_usage_exits_with_2,
        the_help_shows_the_documented_defaults,
        each_flag_of_a_server_has_its_environment_variable,
        flags_have_environment_variables,
        an_empty_environment_variable_is_not_set,
        quiet_logs_only_the_ready_line,
        log_fields_are_fields_of_the_json_line,
        the_log_names_the_server_of_a_connection,
        the_first_log_line_is_listening_and_the_last_is_stopped,
        a_warning_shows_how_many_connections_the_limit_of_open_files_allows,
        the_limit_of_open_files_is_raised_at_the_start,
        each_message_of_a_client_gets_its_reply,
        control_characters_are_escaped_on_a_terminal,
        a_client_notices_that_the_server_is_gone,
        a_closed_standard_output_ends_a_client_quietly,
        a_server_may_close_after_its_reply,
        names_and_ipv6_addresses_are_addresses,
        many_connections_verify_every_byte,
        a_byte_that_comes_back_wrong_fails_the_run,
        only_connections_that_are_complete_are_reported_as_verified,
        the_demo_ends_by_itself,
        the_demo_reports_a_too_low_limit_of_open_files;
    clients:
        a_pipe_passes_through_as_it_is,
        a_pipe_has_backpressure_in_both_directions,
        a_terminal_is_asked_line_by_line,
        the_end_of_a_passed_stream_is_named,
        a_closed_standard_output_ends_a_passed_stream,
        clients_wait_for_their_server,
        a_second_signal_ends_a_client,
        an_interrupted_subscriber_shows_its_rate;
    status:
        curl_and_python_read_every_page,
        prometheus_reads_the_metrics_in_both_formats,
        the_pages_refresh_themselves_in_a_browser,
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
        a_log_that_is_not_read_blocks_nothing,
        a_second_signal_ends_a_server_whose_log_is_not_read,
        a_log_that_is_read_again_reports_dropped_lines,
        a_full_disk_under_the_log_blocks_nothing,
        a_client_whose_standard_error_is_not_read_completes,
        repeated_resets_do_not_fill_the_log,
        with_verbose_every_reset_is_logged,
        an_upstream_that_keeps_closing_does_not_fill_the_log,
        health_checks_are_counted_and_not_logged,
        a_hangup_and_user_signals_end_nothing,
        a_hangup_that_is_ignored_at_the_start_stays_ignored,
        a_hangup_ends_a_client;
    namespace:
        a_dial_that_reaches_itself_is_a_failed_attempt,
        a_server_listens_on_all_addresses_of_a_name,
        a_resolver_that_does_not_answer_delays_only_its_dial,
        a_server_whose_upstream_name_is_its_own_exits,
        the_addresses_of_an_upstreams_name_are_balanced_and_looked_up_again;
    unix:
        an_echo_on_a_unix_socket_serves_netcat_and_our_clients,
        a_fan_out_goes_from_one_unix_socket_to_another,
        a_stale_unix_socket_is_replaced_and_a_live_one_is_not,
        the_umask_determines_the_mode_of_a_unix_socket,
        a_reset_looks_like_an_end_on_a_unix_socket,
        a_locked_folder_does_not_delay_the_start,
        a_unix_socket_that_is_bound_but_does_not_listen_is_in_use,
        a_status_on_a_unix_socket_or_ipv6_is_answered;
    urgent:
        bytes_after_urgent_data_are_echoed,
        requests_after_urgent_data_are_answered,
        bytes_after_urgent_data_pass_the_proxy_in_both_directions,
        messages_after_urgent_data_reach_subscribers;
    systemd:
        inherited_sockets_are_served,
        an_error_names_the_socket_that_was_not_inherited,
        an_error_names_the_socket_that_does_not_listen,
        all_inherited_sockets_of_one_name_are_served,
        the_service_manager_is_notified,
        a_service_manager_on_an_abstract_socket_is_notified,
        a_service_manager_that_does_not_read_delays_nothing,
        completions_and_manual_pages_are_written;
    serve:
        a_reload_changes_servers_and_keeps_their_connections,
        a_server_that_is_removed_and_added_again_has_its_connections,
        no_connection_fails_while_configurations_are_loaded,
        a_faulty_configuration_changes_nothing,
        a_configuration_is_checked_without_serving,
        a_replaced_fan_out_serves_its_subscribers_until_they_leave,
        a_reload_that_waits_delays_nobody,
        a_refused_reload_returns_the_sockets_that_it_took,
        a_reload_of_the_upstreams_keeps_connections_and_their_counts,
        a_reload_refuses_a_server_that_is_its_own_upstream,
        reloads_leave_no_file_open_and_divide_the_open_files,
        a_hangup_reads_the_table_again,
        the_service_manager_is_notified_of_a_reload;
    listening:
        several_addresses_have_one_limit_and_one_set_of_metrics,
        the_same_address_twice_is_wrong_usage,
        a_reload_adds_and_removes_an_address_while_the_others_listen,
        no_connection_to_an_address_that_is_removed_fails;
    tls:
        every_server_sends_the_same_bytes_through_openssl,
        subscribers_get_the_bytes_of_an_upstream_with_tls,
        python_clients_get_the_replies_of_the_app_server,
        each_direction_ends_by_itself,
        our_clients_verify_servers_of_python_and_openssl,
        a_peer_that_breaks_tls_ends_alone_with_its_reason,
        a_client_reports_in_one_line_why_tls_failed,
        the_certificate_of_a_client_is_its_identity,
        a_hangup_loads_certificates_for_new_connections,
        sigterm_lets_connections_with_tls_end,
        a_file_that_is_not_usable_ends_the_start,
        contradicting_flags_are_wrong_usage;
    third_party:
        netcat_gets_its_bytes_back,
        a_blocking_python_client_gets_its_bytes_back,
        a_selectors_based_python_client_gets_its_bytes_back,
        a_third_party_server_satisfies_our_clients;
}
