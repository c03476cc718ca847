# shellcheck shell=bash
# What the scripts of this folder share: messages, ports, processes, and whether a server answers.
# Sourced, never run.
# shellcheck disable=SC2034  # those who source it use the names

REPO="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)"
SCRIPTS="$REPO/scripts"
CACHE="${BM_CACHE:-${XDG_CACHE_HOME:-${HOME:-/var/tmp}/.cache}/brightmatter}"
KAFKA_VERSION=4.3.1

say() { printf '%s\n' "$*" >&2; }

die() {
  printf '%s: %s\n' "$(basename -- "$0")" "$*" >&2
  exit 1
}

# kafka_jars: the folder of the pinned broker's jars; another pin has another folder.
kafka_jars() {
  printf '%s\n' "$CACHE/kafka-$KAFKA_VERSION-$(sha256sum <"$SCRIPTS/kafka/pom.xml" | cut -c1-8)"
}

# absolute PATH: the path without `..` and symbolic links; it need not exist yet.
absolute() { realpath -m -- "$1"; }

# port_in_use PORT: something listens on it on the loopback address.
port_in_use() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# free_port: prints a port nobody listens on, below the range the kernel gives to outgoing
# connections, so that it is still free when a stopped server wants it again.
free_port() {
  local port
  for _ in {1..200}; do
    port=$((15000 + (RANDOM * 32768 + RANDOM) % 17000))
    if ! port_in_use "$port"; then
      printf '%s\n' "$port"
      return
    fi
  done
  die "found no free port between 15000 and 32000"
}

# start_time PID: when the kernel started this process, in ticks. With the pid it names one
# process for ever, where a pid alone may have been given to another.
start_time() {
  local stat
  stat="$(cat "/proc/$1/stat" 2>/dev/null)" || return 1
  [[ -n $stat ]] || return 1
  # The command's name is in parentheses and may hold anything; count from behind it.
  local -a fields
  read -r -a fields <<<"${stat##*) }"
  [[ ${fields[0]} != Z ]] || return 1
  printf '%s\n' "${fields[19]}"
}

# write_pid FILE PID / alive FILE / pid_of FILE: a pid file that is not fooled by a reused pid.
write_pid() { printf '%s %s\n' "$2" "$(start_time "$2" || echo 0)" >"$1"; }

pid_of() {
  local pid started
  [[ -s $1 ]] && read -r pid started <"$1" || return 1
  [[ "$(start_time "$pid" || true)" == "$started" ]] && printf '%s\n' "$pid"
}

# In a subshell rather than with its output thrown away: a trap that interrupts it would have its
# output thrown away too.
alive() { [[ -n "$(pid_of "$1" || true)" ]]; }

# stop_pid_file FILE SECONDS [SIGNAL]: asks the process to end (by TERM), insists after SECONDS,
# waits until it has.
stop_pid_file() {
  local file="$1" limit="$2" pid
  if pid="$(pid_of "$file")"; then
    kill -CONT "$pid" 2>/dev/null || true
    kill -s "${3:-TERM}" "$pid" 2>/dev/null || true
    local deadline=$((SECONDS + limit))
    while alive "$file"; do
      if ((SECONDS >= deadline)); then
        say "process $pid did not stop within ${limit} s; killing it"
        kill -KILL "$pid" 2>/dev/null || true
        deadline=$((SECONDS + 10))
      fi
      pause 0.05
    done
  fi
  rm -f -- "$file"
}

# pause SECONDS: like sleep, without a process that could be left behind.
pause() {
  [[ -n ${pause_fd:-} ]] || exec {pause_fd}<> <(:)
  read -r -t "$1" -u "$pause_fd" || true
}

# dotenv NAME: what the environment says, be it empty, else what the file .env at the top says.
dotenv() {
  if [[ -n ${!1+set} ]]; then
    printf '%s\n' "${!1}"
  elif [[ -e $REPO/.env ]]; then
    dotenv_file "$REPO/.env" "$1"
  fi
}

# dotenv_file FILE NAME: what the file says, read as the services read it (bm_bootstrap::vars, held to
# it by scripts/tests/dotenv.rs): before anything is built there is nobody else to ask. The first of
# several lines counts, and a line that is not NAME=value spoils the file. Refused besides is a $ that
# is not quoted, which the services would replace.
# shellcheck disable=SC2094  # refusing names the file, and does not touch it
dotenv_file() {
  local file="$1" wanted="$2" line number=0 began at c name rest value quote state found='' is_found=false
  local assignment='^[[:space:]]*(export[[:space:]]+)?([A-Za-z_][A-Za-z0-9_.]*)[[:space:]]*=[[:space:]]*(.*)$'
  while IFS= read -r line || [[ -n $line ]]; do
    number=$((number + 1)) began=$((number + 1))
    [[ ! $line =~ ^[[:space:]]*(#|$) ]] || continue
    [[ $line =~ $assignment ]] || dotenv_refuse "$file" "$number"
    name="${BASH_REMATCH[2]}" rest="${BASH_REMATCH[3]%$'\r'}" began="$number"
    value='' quote='' state='' at=0
    [[ $rest != '#'* ]] || rest=''
    while ((at < ${#rest})) || [[ -n $quote ]]; do
      if ((at == ${#rest})); then
        # A quoted value goes on in the next line.
        IFS= read -r line || [[ -n $line ]] || dotenv_refuse "$file" "$began"
        number=$((number + 1))
        rest+=$'\n'"$line"
      fi
      c="${rest:at:1}"
      at=$((at + 1))
      case "$state$quote$c" in
        escaped*)
          case "$c" in
            [\\\'\"\$\ ]) value+="$c" ;;
            n) value+=$'\n' ;;
            *) dotenv_refuse "$file" "$began" ;;
          esac
          state=''
          ;;
        ended[[:blank:]]) ;;
        'ended#') break ;;
        ended*) dotenv_refuse "$file" "$began" ;;
        "''") quote='' ;;
        "'\\")
          # The services' library would be at odds with itself.
          [[ ${rest:at:1} != "'" ]] || dotenv_refuse "$file" "$began"
          value+="$c"
          ;;
        "'"?*) value+="$c" ;;
        *\\) state=escaped ;;
        *\$) dotenv_refuse "$file" "$began" ;;
        '""') quote='' ;;
        \"?*) value+="$c" ;;
        "'" | \") quote="$c" ;;
        [[:blank:]]) state=ended ;;
        *) value+="$c" ;;
      esac
    done
    if ! $is_found && [[ $name == "$wanted" ]]; then
      found="$value" is_found=true
    fi
  done <"$file"
  [[ -z $found ]] || printf '%s\n' "$found"
}

dotenv_refuse() {
  die "$1, line $2: not NAME=value (quote values that hold spaces, \`#\` or \`\$\` with '…')"
}

# postgres_bin: the folder of the newest PostgreSQL server binaries.
postgres_bin() {
  local dir newest=''
  newest="$(printf '%s\n' /usr/lib/postgresql/*/bin/postgres | sort -V | tail -n 1)"
  if [[ -x $newest ]]; then
    dirname -- "$newest"
  elif dir="$(command -v postgres)"; then
    dirname -- "$(realpath -- "$dir")"
  else
    return 1
  fi
}

# answers_*: the server behind the port does its work (and does not merely listen). In a subshell,
# so that its connection and its complaints go with it.
answers_postgres() {
  "$(postgres_bin)/pg_isready" -q -h 127.0.0.1 -p "$1" -U brightmatter -d postgres -t 2 2>/dev/null
}

answers_redis() (
  exec 2>/dev/null 3<>"/dev/tcp/127.0.0.1/$1" || exit 1
  printf 'PING\r\n' >&3
  IFS= read -r -t 2 reply <&3 && [[ $reply == +PONG* ]]
)

# A Metadata request (version 4, no topics) must be answered with at least one broker. The
# reply begins: size, correlation id, throttle time, number of brokers; four bytes each.
answers_kafka() (
  exec 2>/dev/null 3<>"/dev/tcp/127.0.0.1/$1" || exit 1
  printf '\x00\x00\x00\x0f\x00\x03\x00\x04\x00\x00\x00\x01\xff\xff\x00\x00\x00\x00\x00' >&3
  reply="$(timeout 2 head -c 16 <&3 | od -An -tx1 | tr -d ' \n')"
  [[ ${#reply} -eq 32 && ${reply:24:8} != 00000000 ]]
)

# gRPC speaks HTTP/2: its greeting and an empty SETTINGS frame must be answered with a frame of
# type SETTINGS, the fourth byte. (Not every emulator understands HTTP/1.)
answers_firestore() (
  exec 2>/dev/null 3<>"/dev/tcp/127.0.0.1/$1" || exit 1
  printf 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00' >&3
  reply="$(timeout 5 head -c 9 <&3 | od -An -tx1 | tr -d ' \n')"
  [[ ${#reply} -eq 18 && ${reply:6:2} == 04 ]]
)
