# Builds the image that Milpa's nodes boot on EC2: Debian 12 with the node agent. See README.md beside this file.
#
#   packer init nodeagent/image
#   packer build -var region=us-east-1 nodeagent/image

packer {
  required_version = ">= 1.9"
  required_plugins {
    amazon = {
      version = ">= 1.3"
      source  = "github.com/hashicorp/amazon"
    }
  }
}

variable "region" {
  type        = string
  description = "Where the image is built and kept."
}

variable "architecture" {
  type        = string
  default     = "amd64"
  description = "amd64, or arm64 for Graviton types; an image has one of them."
  validation {
    condition     = contains(["amd64", "arm64"], var.architecture)
    error_message = "The architecture must be amd64 or arm64."
  }
}

variable "boot_image_tags" {
  type        = map(string)
  default     = { milpa = "node" }
  description = "Tags of the image: server.yml names the same ones in nodes.bootImageTags."
}

variable "encrypted" {
  type        = bool
  default     = false
  description = "Encrypt the snapshot. Milpa encrypts the volumes of its nodes in any case."
}

variable "kms_key_id" {
  type        = string
  default     = ""
  description = "Key for an encrypted snapshot; empty: the account's default key for EBS."
}

variable "volume_gib" {
  type        = number
  default     = 8
  description = "Size of the image's root volume, the least that its nodes can have. Debian's own image has 8."
}

variable "subnet_id" {
  type        = string
  default     = ""
  description = "A subnet that this machine reaches by SSH and that reaches Debian's mirrors; empty: the default VPC's."
}

variable "source_owner" {
  type        = string
  default     = "136693071363"
  description = "Account that publishes the base image; the default is Debian's own (wiki.debian.org/Cloud/AmazonEC2Image)."
}

variable "python" {
  type        = string
  default     = "python3"
  description = "Python on this machine that gathers the wheels; it needs pip and access to a package index."
}

locals {
  machine       = { amd64 = "x86_64", arm64 = "arm64" }[var.architecture]
  instance_type = { amd64 = "t3.small", arm64 = "t4g.small" }[var.architecture]
  stamp         = formatdate("YYYYMMDD-hhmmss", timestamp())
  staging       = "/tmp/milpa-image"
}

source "amazon-ebs" "node" {
  region        = var.region
  subnet_id     = var.subnet_id
  instance_type = local.instance_type
  ssh_username  = "admin"

  temporary_key_pair_type   = "ed25519"
  ssh_clear_authorized_keys = true

  source_ami_filter {
    owners      = [var.source_owner]
    most_recent = true
    filters = {
      name                = "debian-12-${var.architecture}-*"
      architecture        = local.machine
      root-device-type    = "ebs"
      virtualization-type = "hvm"
    }
  }

  launch_block_device_mappings {
    device_name           = "/dev/xvda"
    volume_size           = var.volume_gib
    volume_type           = "gp3"
    delete_on_termination = true
  }

  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
  }

  ami_name        = "milpa-node-${var.architecture}-${local.stamp}"
  ami_description = "Milpa node: Debian 12 with the node agent"
  imds_support    = "v2.0"
  ena_support     = true
  encrypt_boot    = var.encrypted
  kms_key_id      = var.kms_key_id

  tags          = merge(var.boot_image_tags, { Name = "milpa-node-${var.architecture}-${local.stamp}" })
  snapshot_tags = var.boot_image_tags
  run_tags      = { Name = "milpa-image-build" }
}

build {
  sources = ["source.amazon-ebs.node"]

  provisioner "shell-local" {
    environment_vars = ["PYTHON=${var.python}"]
    command          = "'${abspath(path.root)}/wheelhouse.sh' '${abspath(path.root)}/build/wheels' ${var.architecture}"
  }

  # First boot is still at work when SSH answers, and holds apt's lock.
  provisioner "shell" {
    inline = ["sudo cloud-init status --wait >/dev/null || true", "mkdir -p ${local.staging}"]
  }

  provisioner "file" {
    sources = [
      "${path.root}/install.sh",
      "${path.root}/packages",
      "${path.root}/requirements.txt",
      "${path.root}/milpa-agent.service",
      "${path.root}/cloud-init.cfg",
    ]
    destination = "${local.staging}/"
  }

  provisioner "file" {
    source      = "${path.root}/build/wheels"
    destination = "${local.staging}/"
    generated   = true # not there yet when Packer checks the template
  }

  provisioner "shell" {
    inline = [
      "sudo bash ${local.staging}/install.sh --clean",
      "rm -rf ${local.staging}",
    ]
  }
}
