# shellcheck shell=sh
# What every shell of a node sources, whether `ray up`, Slurm or a person opened it:  . ~/cpcnn-sweeps/cluster/environment.sh
#
# Ray refuses whoever does not know the token in ~/.ray/auth_token; see docs/security.md.
CPCNN_HOME="${CPCNN_HOME:-$HOME/cpcnn-sweeps}"
export CPCNN_HOME
export PATH="$CPCNN_HOME/.venv/bin:$HOME/.local/bin:$PATH"
export RAY_AUTH_MODE=token
export RAY_AUTH_TOKEN_PATH="${RAY_AUTH_TOKEN_PATH:-$HOME/.ray/auth_token}"
export RAY_USAGE_STATS_ENABLED=0
export RAY_ENABLE_UV_RUN_RUNTIME_ENV=0 # workers share the node's environment; Ray would build one for each

# A node that is cut off keeps its trials until it gives the head up, by default after 190 seconds. The head gives the
# node up after 65 and has them run elsewhere, where they wait two minutes for whoever holds them. So let it take 45 to 86.
export RAY_grpc_client_keepalive_timeout_ms=20000
export RAY_gcs_rpc_server_reconnect_timeout_s=20
