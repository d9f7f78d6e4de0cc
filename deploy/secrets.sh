#!/bin/sh
# Make the secrets of docker-compose.yml: a file each in deploy/secrets, random. What is there is kept, so it may run again.
#   sh deploy/secrets.sh [folder]
# The folder is for its owner alone; the files in it can be read by whoever a container runs as, since Compose
# mounts them as they are.
set -eu
folder=${1:-$(dirname "$0")/secrets}
umask 077
mkdir -p "$folder"
chmod 700 "$folder"

random() { # letters and digits: they go into URLs and headers as they are
    LC_ALL=C tr -dc 'A-Za-z0-9' </dev/urandom | head -c "$1"
}

secret() { # name, content
    if [ ! -s "$folder/$1" ]; then
        printf '%s' "$2" >"$folder/$1.new"
        chmod 444 "$folder/$1.new"
        mv "$folder/$1.new" "$folder/$1"
        echo "made $folder/$1"
    fi
}

for name in api_key internal_token s3_secret_key worker_s3_secret_key mongodb_root_password minio_root_password grafana_password; do
    secret $name "$(random 40)"
done
secret mongodb_keyfile "$(random 700)"
secret store "mongodb://trainwright:$(random 40)@mongodb:27017/?replicaSet=trainwright&authSource=admin"
