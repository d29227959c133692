#!/bin/sh
# kprov's own way from a node to the API server's service address, which stands in for kube-proxy's until those are there.
#
# Defines functions for the scripts that it is put before. TOOL is iptables or ip6tables.

# stand_ins TOOL ADDRESS: the rules that send ADDRESS elsewhere and are not in a chain of kube-proxy's, a line each.
# A node without the tool has none: nobody can have laid one.
stand_ins() {
  command -v "$1" >/dev/null || return 0
  for stand_in_chain in PREROUTING OUTPUT; do
    stand_in_rules=$("$1" -w -t nat -S "$stand_in_chain") || return
    printf '%s\n' "$stand_in_rules" | while read -r rule; do
      case "$rule" in
      "-A $stand_in_chain "*"-d $2/"*"-j DNAT "*) printf '%s\n' "$rule" ;;
      esac
    done
  done
}

# lay_stand_in TOOL ADDRESS TARGET
lay_stand_in() {
  for stand_in_chain in PREROUTING OUTPUT; do
    "$1" -w -t nat -I "$stand_in_chain" -d "$2" -p tcp --dport 443 -j DNAT --to-destination "$3" || return
  done
}

# take_stand_in_away TOOL ADDRESS
take_stand_in_away() {
  stand_in_found=$(stand_ins "$1" "$2") || return
  printf '%s\n' "$stand_in_found" | while read -r _ rule; do
    # The words of a rule as iptables itself has printed them.
    # shellcheck disable=SC2086
    [ -z "$rule" ] || "$1" -w -t nat -D $rule || exit
  done
}
