"""Events out to message brokers and webhooks: `relay`, and a module for each publisher."""

from pgevents.relays.messages import Message, Publisher, PublishError
from pgevents.relays.relay import relay
from pgevents.relays.webhook import WebhookPublisher, verify_webhook

__all__ = ["Message", "PublishError", "Publisher", "WebhookPublisher", "relay", "verify_webhook"]
