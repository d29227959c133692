# An OpenBao beside a cluster: the key-encryption key of one KMS plugin, and who may use it. It unseals by itself when its
# container starts, and sets itself up at its first start; no root token ever leaves it.
ui            = false
disable_mlock = true
api_addr      = "https://127.0.0.1:8200"
cluster_addr  = "https://127.0.0.1:8201"

storage "raft" {
  path                   = "/kprov/openbao/data"
  node_id                = "one"
  performance_multiplier = 1
}

listener "tcp" {
  address       = ":8200"
  tls_cert_file = "/kprov/openbao/server.crt"
  tls_key_file  = "/kprov/openbao/server.key"
}

seal "static" {
  current_key_id = "kprov"
  current_key    = "file:///kprov/openbao/seal.key"
}

initialize "kprov" {
  request "transit" {
    operation = "update"
    path      = "sys/mounts/transit"
    data      = { type = "transit" }
  }
  request "key" {
    operation = "update"
    path      = "transit/keys/kprov"
    data      = { type = "aes256-gcm96" }
  }
  request "approle" {
    operation = "update"
    path      = "sys/auth/approle"
    data      = { type = "approle" }
  }

  # The plugin: wraps and unwraps, and sees which version is the newest.
  request "plugin-policy" {
    operation = "update"
    path      = "sys/policies/acl/plugin"
    data = {
      policy = <<EOT
path "transit/encrypt/kprov" { capabilities = ["update"] }
path "transit/decrypt/kprov" { capabilities = ["update"] }
path "transit/keys/kprov" { capabilities = ["read"] }
path "auth/token/renew-self" { capabilities = ["update"] }
EOT
    }
  }
  request "plugin" {
    operation = "update"
    path      = "auth/approle/role/plugin"
    data = {
      role_id                 = "plugin"
      token_policies          = ["plugin"]
      token_no_default_policy = true
      token_period            = "1h"
    }
  }
  request "plugin-secret" {
    operation = "update"
    path      = "auth/approle/role/plugin/custom-secret-id"
    data = {
      secret_id = {
        eval_type   = "string"
        eval_source = "file"
        path        = "/kprov/openbao/plugin.secret"
      }
    }
  }

  # Whoever runs the cluster: rotates the key, gives up old versions, seals, revokes.
  request "admin-policy" {
    operation = "update"
    path      = "sys/policies/acl/admin"
    data = {
      policy = <<EOT
path "transit/keys/kprov" { capabilities = ["read"] }
path "transit/keys/kprov/rotate" { capabilities = ["update"] }
path "transit/keys/kprov/config" { capabilities = ["update"] }
path "sys/seal" { capabilities = ["update", "sudo"] }
path "auth/token/accessors" { capabilities = ["list", "sudo"] }
path "auth/token/lookup-accessor" { capabilities = ["update"] }
path "auth/token/revoke-accessor" { capabilities = ["update"] }
EOT
    }
  }
  request "admin" {
    operation = "update"
    path      = "auth/approle/role/admin"
    data = {
      role_id                 = "admin"
      token_policies          = ["admin"]
      token_no_default_policy = true
      token_ttl               = "5m"
    }
  }
  request "admin-secret" {
    operation = "update"
    path      = "auth/approle/role/admin/custom-secret-id"
    data = {
      secret_id = {
        eval_type   = "string"
        eval_source = "file"
        path        = "/kprov/openbao/admin.secret"
      }
    }
  }
}
